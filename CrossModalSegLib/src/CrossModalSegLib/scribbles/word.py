"""Scribbles in the way of the WORD data set (Luo et al. 2022): a jittered main line of each organ in each slice."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter1d

from .brush import draw_points
from .slices import scribble_slices
from .thinning import centre_line

_ERODE_DEPTH_SHARE = (0.1, 0.35)
_JITTER_PX = 1.5
_JITTER_WAVELENGTH = 8.0


def _eroded(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The region without a rim of a random share of its depth."""
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    return depth > rng.uniform(*_ERODE_DEPTH_SHARE) * depth.max()


def _jittered(line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The line (n, 2) moved by smooth noise, like a hand that is not steady."""
    noise = gaussian_filter1d(rng.standard_normal(line.shape), _JITTER_WAVELENGTH, axis=0, mode="nearest")
    scale = noise.std()
    return line + noise * (_JITTER_PX / scale if scale > 0 else 0.0)


def _draw(region: np.ndarray, _ignored: np.ndarray, rng: np.random.Generator, thickness: int) -> np.ndarray:
    line = centre_line(_eroded(region, rng), rng)
    if len(line) > 8:
        line = _jittered(line, rng)
    return draw_points(line, region.shape, thickness)


def word_scribbles(
    mask: np.ndarray,
    spacing: tuple[float, float, float],  # noqa: ARG001 - all methods share one signature
    rng: np.random.Generator,
    *,
    thickness: int = 3,
) -> np.ndarray:
    """Erode each class, take its skeleton, cut the branches, jitter, widen, and clip to the class.

    Args:
        mask: uint8 (k, j, i), 0 = nothing, 1..254 = classes, 255 = ignored.
        spacing: (k, j, i) in mm; not used, the method counts pixels.
        rng: numpy generator.
        thickness: width of the line in pixels.

    Returns:
        uint8 (k, j, i): class on scribbles, 255 elsewhere.
    """
    return scribble_slices(mask, rng, partial(_draw, thickness=thickness))
