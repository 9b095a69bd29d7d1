"""Contour scribbles of ScribbleBench (Gotkowski et al. 2024): a curve in the interior and an arc along the outline.

The arc shows where a class ends, which a curve in the middle cannot: it is what makes these scribbles the most useful.
"""

from __future__ import annotations

from functools import partial

import contourpy
import numpy as np
from scipy.ndimage import distance_transform_edt

from .brush import draw_points, polyline_length, resample_polyline, spline_through
from .slices import scribble_slices
from .thinning import centre_line, coarse_depth

ARC_SHARE = (0.07, 0.15)
ARC_DEPTH_PX = (1.0, 4.0)
_MIN_ARC_PX = 3.0
_INTERIOR_SHARE = (0.4, 0.9)
_CONTROL_DISTANCE_PX = 12.0


def level_lines(distance: np.ndarray, level: float) -> list[np.ndarray]:
    """Polylines (n, 2) of (row, column) where a map crosses a level; closed ones repeat their first point."""
    if min(distance.shape) < 2:
        return []
    lines = contourpy.contour_generator(z=distance).lines(level)
    return [np.asarray(line)[:, ::-1] for line in lines if len(line) > 1]


def random_arc(line: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """A piece of the given length (px) of a polyline from a random start; it wraps around on closed lines."""
    dense = resample_polyline(line)
    total = polyline_length(dense)
    count = max(2, round(len(dense) * min(1.0, length / max(total, 1e-9))))
    if np.allclose(dense[0], dense[-1]):
        start = int(rng.integers(len(dense)))
        return dense[(start + np.arange(count)) % len(dense)]
    start = int(rng.integers(len(dense) - count + 1))
    return dense[start : start + count]


def _outline_arcs(region: np.ndarray, ignored: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """An arc at a random depth inside of each closed part of the outline of the region."""
    solid = region | ignored
    if solid.all():
        return []
    distance = distance_transform_edt(solid)
    depth = min(rng.uniform(*ARC_DEPTH_PX), 0.7 * float(distance[region].max()))
    lines = level_lines(distance, depth)
    return [random_arc(line, max(_MIN_ARC_PX, rng.uniform(*ARC_SHARE) * polyline_length(line)), rng) for line in lines]


def _interior_curve(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A spline (n, 2) that wanders about a part of the main line of the region."""
    line = centre_line(region, rng)
    if len(line) < 4:
        return line
    count = max(4, int(rng.uniform(*_INTERIOR_SHARE) * len(line)))
    start = int(rng.integers(len(line) - count + 1))
    part = line[start : start + count]
    controls = part[np.linspace(0, count - 1, max(3, int(polyline_length(part) / _CONTROL_DISTANCE_PX))).astype(int)]
    depth, step = coarse_depth(region)
    rows, columns = np.clip(np.rint(controls / step).astype(int), 0, np.array(depth.shape) - 1).T
    reach = 0.5 * depth[rows, columns][:, None]
    return spline_through(controls + reach * rng.uniform(-1.0, 1.0, controls.shape))


def _draw(region: np.ndarray, ignored: np.ndarray, rng: np.random.Generator, thickness: int) -> np.ndarray:
    curve = _interior_curve(region, rng)
    arcs = _outline_arcs(region, ignored, rng)
    return draw_points(np.concatenate([curve, *arcs]), region.shape, thickness)


def contour_scribbles(
    mask: np.ndarray,
    spacing: tuple[float, float, float],  # noqa: ARG001 - all methods share one signature
    rng: np.random.Generator,
    *,
    thickness: int = 3,
) -> np.ndarray:
    """Interior spline and an arc of 7–15 % of the outline, 1–4 px inside, for each class in each axial slice.

    Args:
        mask: uint8 (k, j, i), 0 = nothing, 1..254 = classes, 255 = ignored (its border is no outline).
        spacing: (k, j, i) in mm; not used, the method counts pixels.
        rng: numpy generator.
        thickness: width of the curves in pixels (3 in the paper).

    Returns:
        uint8 (k, j, i): class on scribbles, 255 elsewhere.
    """
    return scribble_slices(mask, rng, partial(_draw, thickness=thickness))
