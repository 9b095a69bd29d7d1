"""Skeleton scribbles of MAAG (Valvano et al. 2021)."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.ndimage import binary_closing, binary_dilation

from .slices import scribble_slices
from .thinning import skeleton

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)


def _draw(region: np.ndarray, _ignored: np.ndarray, _rng: np.random.Generator, thickness: int) -> np.ndarray:
    lines = skeleton(region)
    closed = binary_closing(np.pad(lines, 1), np.ones((3, 3), dtype=bool))[1:-1, 1:-1] | lines
    width = thickness - 1
    return binary_dilation(closed, _CROSS, iterations=width // 2) if width >= 2 else closed


def skeleton_scribbles(
    mask: np.ndarray,
    spacing: tuple[float, float, float],  # noqa: ARG001 - all methods share one signature
    rng: np.random.Generator,
    *,
    thickness: int = 3,
) -> np.ndarray:
    """Skeleton of each class in each axial slice, closed, dilated and clipped to the class.

    Args:
        mask: uint8 (k, j, i), 0 = nothing, 1..254 = classes, 255 = ignored.
        spacing: (k, j, i) in mm; not used, the method counts pixels.
        rng: numpy generator.
        thickness: width of the lines in pixels.

    Returns:
        uint8 (k, j, i): class on scribbles, 255 elsewhere.
    """
    return scribble_slices(mask, rng, partial(_draw, thickness=thickness))
