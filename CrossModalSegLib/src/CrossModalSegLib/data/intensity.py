"""Image values to [0, 1]: a Hounsfield window for CT, percentiles for everything else."""

from __future__ import annotations

import logging

import numpy as np

logger = logging.getLogger(__name__)

# Percentiles of larger volumes are taken over an evenly spread sample of about this many voxels.
PERCENTILE_VOXELS = 4_000_000
# Ranges of values, and offsets relative to them, up to which float32 is exact enough; it has 24 bits.
FLOAT32_RANGE = 1e38
FLOAT32_OFFSET = 1e4
# A lowest value that lies so many times the range of all others below zero and them fills up what was not measured.
FILLER_DISTANCE = 10.0
# A lowest value that more than this share of the voxels hold is padding, as around a small MR on a large CT's grid.
PADDING_SHARE = 0.9


def is_ct(modality: str) -> bool:
    """Whether a modality of this name holds Hounsfield units."""
    return modality.lower().startswith("ct")


def normalize_image(
    array: np.ndarray, modality: str, ct_window: tuple[float, float], percentiles: tuple[float, float]
) -> np.ndarray:
    """Image values clipped to a range and scaled to [0, 1].

    Args:
        array: (k, j, i), any real dtype: HU for CT, arbitrary units otherwise.
        modality: Name of the modality; names that begin with "ct" use the window.
        ct_window: HU that become 0 and 1. A "CT" without any negative value is not in HU (air has -1000): it is
            scaled by percentiles, and a warning says so.
        percentiles: The percentiles that become 0 and 1; of all voxels but those that hold a negative filler, such as
            -32768 or the lowest float, far below all others (a warning says so), or padding, which is most of the grid.

    Returns:
        float32 of the array's shape, in [0, 1]; zeros for a constant image.
    """
    return scale_to_unit(array, *value_range(array, modality, ct_window, percentiles))


def scale_to_unit(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32: `low` and below becomes 0, `high` and above 1; zeros where there is no range."""
    if not high > low:
        return np.zeros(np.shape(array), np.float32)
    with np.errstate(over="ignore"):  # beyond float32 is beyond `high`
        result = np.array(array, _working_type(low, high))
    np.clip(result, low, high, out=result)
    result -= low
    result /= high - low
    return np.clip(result, 0.0, 1.0, out=result).astype(np.float32, copy=False)


def _working_type(low: float, high: float) -> type[np.floating]:
    """float32 where it holds the range and tells at least a thousand values in it apart, else float64."""
    largest = max(abs(low), abs(high))
    return np.float32 if high - low < FLOAT32_RANGE and largest < FLOAT32_OFFSET * (high - low) else np.float64


def value_range(
    array: np.ndarray, modality: str, ct_window: tuple[float, float], percentiles: tuple[float, float]
) -> tuple[float, float]:
    """The values that become 0 and 1; see `normalize_image`."""
    if is_ct(modality):
        if array.min() < 0:
            return ct_window
        logger.warning(
            "The %s image has no negative value, so it is not in Hounsfield units: it is scaled by the percentiles "
            "%g and %g instead of the window %g to %g HU.",
            modality,
            *percentiles,
            *ct_window,
        )
    sample = _sample(array)
    low, high = np.percentile(sample, percentiles)
    if low < 0 and (measured := _without_filler(sample)) is not None:
        logger.warning(
            "The %s holds %g where nothing was measured, far below its other values (%g to %g): these voxels do "
            "not count for its contrast and become as dark as its darkest ones. If they mean something else, change "
            "them before.",
            "image" if modality == "image" else f"{modality} image",
            sample.min(),
            measured.min(),
            measured.max(),
        )
        low, high = np.percentile(measured, percentiles)
    elif (padded := _without_padding(sample)) is not None:
        low, high = np.percentile(padded, percentiles)
    return float(low), float(high)


def _without_padding(sample: np.ndarray) -> np.ndarray | None:
    """The values without the lowest one where nearly all voxels hold it, else None."""
    measured = sample[sample > sample.min()]
    is_padded = 0 < measured.size < (1 - PADDING_SHARE) * sample.size
    return measured if is_padded and measured.min() < measured.max() else None


def _without_filler(sample: np.ndarray) -> np.ndarray | None:
    """The values without the lowest one where that is a filler, else None."""
    lowest = float(sample.min())
    measured = sample[sample > lowest]
    if not measured.size:
        return None
    darkest, brightest = float(measured.min()), float(measured.max())
    is_far = darkest - lowest > FILLER_DISTANCE * (brightest - darkest)
    return measured if is_far and brightest > darkest else None


def _sample(array: np.ndarray) -> np.ndarray:
    if array.size <= PERCENTILE_VOXELS:
        return array
    # An odd step does not fall onto the same columns of every row.
    return array.reshape(-1)[:: (array.size // PERCENTILE_VOXELS) | 1]
