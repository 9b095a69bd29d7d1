"""Where a class can be, given where it was scribbled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.labels import BACKGROUND, UNLABELLED

MARGIN_MM = 35.0
# Fewer drawn slices may be a sample of those that a structure is in.
MANY_SLICES = 5
# The prior was trained on strokes across k: where they lie in other planes, this far apart, it takes every slice that
# they cross for a drawn one, and misses what no stroke crosses. Closer ones do as well along k if its slices are thick.
WIDE_GAP_MM = 15.0
# The thickest slices that may come to lie in the drawn planes: the prior saw voxels of at most 3.2 mm there.
COARSEST_DRAWN_MM = 3.2
# Strokes lie in planes across an axis where so many times fewer voxels have a neighbour along it than along k.
FEWER_NEIGHBOURS = 5

Box = tuple[slice, slice, slice]


def class_box(scribbles: np.ndarray, value: int, spacing: tuple[float, float, float]) -> Box:
    """The box in which a class is looked for: its scribbles and a margin.

    The margin is 35 mm in-plane; along the slices half of that, and at least the largest gap between scribbled slices.

    Args:
        scribbles: (k, j, i) uint8, internal convention.
        value: The class.
        spacing: mm, (k, j, i).

    Raises:
        LabelError: The class has no scribble.
    """
    voxels = np.argwhere(scribbles == value)
    if len(voxels) == 0:
        raise LabelError(f"Class {value} has no scribble: draw a stroke on it, or remove it from the labels.")
    margin = np.ceil(MARGIN_MM / np.array(spacing)).astype(int)
    margin[0] = max(margin[0] // 2, _largest_gap(scribbles))
    return _box(voxels, margin, scribbles.shape)


def scribbled_box(scribbles: np.ndarray, spacing: tuple[float, float, float], margin_mm: float = MARGIN_MM) -> Box:
    """The box around all class scribbles and a margin in mm, enlarged to hold some background scribble."""
    voxels = np.argwhere((scribbles != UNLABELLED) & (scribbles != 0))
    if len(voxels) == 0:
        raise LabelError("There is no scribble on any class: draw at least one stroke on each structure.")
    margin = np.ceil(margin_mm / np.array(spacing)).astype(int)
    margin[0] = max(margin[0], _largest_gap(scribbles))
    return _with_background(_box(voxels, margin, scribbles.shape), scribbles)


def scribbled_slices(scribbles: np.ndarray, value: int | None = None) -> np.ndarray:
    """Indices along k of the slices that hold scribbles (of one class)."""
    drawn = scribbles != UNLABELLED if value is None else scribbles == value
    return np.flatnonzero(drawn.any(axis=(1, 2)))


def drawn_classes(scribbles: np.ndarray) -> list[int]:
    """Classes with scribbles, ascending; background is none."""
    return [int(value) for value in np.unique(scribbles) if value not in (BACKGROUND, UNLABELLED)]


def absent_slices(scribbles: np.ndarray) -> dict[int, np.ndarray]:
    """Slices where classes cannot be, for they were drawn on and these were not, by one who draws all there is.

    Such a one has drawn on every slice from the first to the last, on `MANY_SLICES` at least, never left out a class
    between two slices that have it, and mostly drawn two classes or more, if there are two. Of others nothing is known:
    they may draw on what is wrong in an answer, or on one class here and another one there.

    Args:
        scribbles: (k, j, i) uint8, internal convention.

    Returns:
        Indices along k by class; nothing where scribbles are not known to be of that kind.
    """
    classes = drawn_classes(scribbles)
    by_class = {value: scribbled_slices(scribbles, value) for value in classes}
    if not by_class:
        return {}
    drawn, times = np.unique(np.concatenate(list(by_class.values())), return_counts=True)
    is_whole = all(np.ptp(slices) + 1 == len(slices) for slices in (drawn, *by_class.values()))
    is_shared = len(classes) == 1 or 2 * np.count_nonzero(times > 1) >= len(drawn)
    if len(drawn) < MANY_SLICES or not is_whole or not is_shared:
        return {}
    touched = scribbled_slices(scribbles)
    return {value: np.setdiff1d(touched, slices) for value, slices in by_class.items()}


def slice_gap_mm(scribbles: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Median distance of neighbouring scribbled slices in mm; 0 for a single one."""
    slices = scribbled_slices(scribbles)
    return float(np.median(np.diff(slices)) * spacing[0]) if len(slices) > 1 else 0.0


def largest_stroke_mm(
    scribbles: np.ndarray, spacing: tuple[float, float, float], thicknesses: Mapping[int, float] | None = None
) -> float:
    """How many mm the strokes of a class span along j or i, all slices together; of the class that spans most.

    Args:
        scribbles: (k, j, i) uint8, internal convention.
        spacing: mm, (k, j, i).
        thicknesses: mm by class, of those that are known; a class that is thinner than long counts as long as thick.
    """
    classes = drawn_classes(scribbles)
    spans = {value: span_mm((scribbles == value).any(axis=0), spacing[1:]) for value in classes}
    return max(min(span, (thicknesses or {}).get(value, np.inf)) for value, span in spans.items())


def span_mm(drawn: np.ndarray, spacing: tuple[float, float]) -> float:
    """The longer side of the box around drawn pixels (j, i) bool, in mm."""
    return float(((np.ptp(np.argwhere(drawn), axis=0) + 1) * np.array(spacing)).max())


def drawn_across(scribbles: np.ndarray, spacing: tuple[float, float, float]) -> int:
    """The axis (0, 1, 2 for k, j, i) that should be k in a fit: j or i where strokes lie in few planes across it.

    Args:
        scribbles: (k, j, i) uint8, internal convention.
        spacing: mm, (k, j, i).
    """
    neighbours = [_neighbours(scribbles != UNLABELLED, axis) for axis in range(3)]
    axis = int(np.argmin(neighbours))
    if FEWER_NEIGHBOURS * neighbours[axis] >= neighbours[0]:
        return 0
    planes = np.moveaxis(scribbles, axis, 0)
    across, *within = (spacing[axis], *np.delete(spacing, axis))
    is_wide = len(scribbled_slices(planes)) == 1 or slice_gap_mm(planes, (across, *within)) >= WIDE_GAP_MM
    is_finer = across > 0.99 * spacing[0]
    return axis if (is_wide or is_finer) and max(within) <= COARSEST_DRAWN_MM else 0


def _neighbours(drawn: np.ndarray, axis: int) -> int:
    """How many drawn voxels (k, j, i) bool have a drawn one behind them along an axis."""
    planes = np.moveaxis(drawn, axis, 0)
    return int(np.count_nonzero(planes[1:] & planes[:-1]))


def _largest_gap(scribbles: np.ndarray) -> int:
    slices = scribbled_slices(scribbles)
    return int(np.diff(slices).max()) if len(slices) > 1 else 1


def _with_background(box: Box, scribbles: np.ndarray) -> Box:
    """The box, enlarged to the nearest background scribble when it holds none."""
    if (scribbles[box] == BACKGROUND).any():
        return box
    voxels = np.argwhere(scribbles == BACKGROUND)
    if len(voxels) == 0:
        return box
    low, high = np.array([s.start for s in box]), np.array([s.stop for s in box])
    outside = np.maximum(0, np.maximum(low - voxels, voxels - high + 1))
    nearest = voxels[np.square(outside).sum(axis=1).argmin()]
    return tuple(slice(int(min(a, n)), int(max(b, n + 1))) for a, b, n in zip(low, high, nearest))


def _box(voxels: np.ndarray, margin: np.ndarray, shape: tuple[int, ...]) -> Box:
    low = np.maximum(voxels.min(axis=0) - margin, 0)
    high = np.minimum(voxels.max(axis=0) + 1 + margin, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high))
