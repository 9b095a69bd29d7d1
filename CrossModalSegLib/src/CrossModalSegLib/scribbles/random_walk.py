"""Random-walk scribbles of MAAG (Valvano et al. 2021): a self-avoiding walk inside of the mask."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.ndimage import binary_dilation

from .slices import scribble_slices

_STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))


def _walk(region: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Visit `length` pixels of the region without crossing the own trace; a trapped walk goes back to its last exit."""
    columns = region.shape[1] + 2
    free = np.pad(region, 1).ravel().tolist()
    offsets = [row * columns + column for row, column in _STEPS]
    pixels = np.flatnonzero(free)
    trace = [int(pixels[rng.integers(len(pixels))])]
    free[trace[0]] = False
    visited = list(trace)
    draws = rng.random(4 * length + 4).tolist()
    for draw in draws:
        if len(visited) >= length or not trace:
            break
        exits = [trace[-1] + offset for offset in offsets if free[trace[-1] + offset]]
        if not exits:
            trace.pop()
            continue
        trace.append(exits[int(draw * len(exits))])
        free[trace[-1]] = False
        visited.append(trace[-1])
    walked = np.zeros(len(free), dtype=bool)
    walked[visited] = True
    return walked.reshape(-1, columns)[1:-1, 1:-1]


def _draw(
    region: np.ndarray, _ignored: np.ndarray, rng: np.random.Generator, fraction: float, thickness: int
) -> np.ndarray:
    walked = _walk(region, max(1, round(fraction * float(region.sum()))), rng)
    if thickness < 3:
        return walked
    return binary_dilation(walked, np.ones((3, 3), dtype=bool), iterations=(thickness - 1) // 2)


def random_walk_scribbles(
    mask: np.ndarray,
    spacing: tuple[float, float, float],  # noqa: ARG001 - all methods share one signature
    rng: np.random.Generator,
    *,
    thickness: int = 1,
    fraction: float = 0.1,
) -> np.ndarray:
    """Self-avoiding random walk over a share of each class in each axial slice.

    Args:
        mask: uint8 (k, j, i), 0 = nothing, 1..254 = classes, 255 = ignored.
        spacing: (k, j, i) in mm; not used, the method counts pixels.
        rng: numpy generator.
        thickness: width of the trace in pixels (odd; the walk itself is one pixel wide).
        fraction: share of the pixels of the class that the walk visits (0.1 in the paper).

    Returns:
        uint8 (k, j, i): class on scribbles, 255 elsewhere.
    """
    return scribble_slices(mask, rng, partial(_draw, fraction=fraction, thickness=thickness))
