"""Background scribbles: by the methods of the classes, or by eroding the complement of the foreground (AutoBG)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import ConvexHull, QhullError

from ..errors import InputError
from ..labels import BACKGROUND, UNLABELLED
from .brush import draw_points, polyline_length
from .contour import level_lines, random_arc

AUTO_COVERAGE = 6e-4
NEAR_MM = 15.0
_RING_DEPTHS = (1.0, 2.0, 4.0)
_LONGEST_ARC_SHARE = 0.5
_SHORTEST_ARC_PX = 6.0
_ARC_ATTEMPTS = 12


def method_background(
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    draw: Callable[[np.ndarray], np.ndarray],
    slices: np.ndarray,
    body: np.ndarray | None = None,
    near_mm: float = NEAR_MM,
) -> np.ndarray:
    """Scribble the background like three classes: a band around the organs, what lies between them, and the rest.

    Between the organs means inside of the convex hull of the slice's foreground, which is inside of the body.

    Args:
        mask: uint8 (k, j, i), 0 = background, 1..254 = classes, 255 = ignored.
        spacing: (k, j, i) in mm.
        draw: method of scribbling, mask (k, j, i) -> uint8 scribbles; 255 in its mask is no outline.
        slices: indices k to scribble.
        body: boolean (k, j, i) where background may be scribbled; None is the whole grid.
        near_mm: width of the band, in the slice.

    Returns:
        uint8 (k, j, i): 0 on background scribbles, 255 elsewhere.
    """
    near = np.full(mask.shape, UNLABELLED, dtype=np.uint8)
    beyond = np.full(mask.shape, UNLABELLED, dtype=np.uint8)
    for k in slices:
        allowed = (mask[k] == BACKGROUND) if body is None else (mask[k] == BACKGROUND) & body[k]
        occupied = (mask[k] != BACKGROUND) & (mask[k] != UNLABELLED)
        band = allowed & _within(occupied, near_mm, spacing[1:])
        near[k][band] = 1
        near[k][occupied] = 0
        beyond[k][allowed & ~band] = 2
        beyond[k][allowed & ~band & _convex_hull(occupied)] = 1
    result = np.full(mask.shape, UNLABELLED, dtype=np.uint8)
    result[draw(near) == 1] = BACKGROUND
    result[draw(beyond) != UNLABELLED] = BACKGROUND
    return result


def erosion_background(
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    slices: np.ndarray | None = None,
    body: np.ndarray | None = None,
    margin_mm: float = 8.0,
    coverage: float = AUTO_COVERAGE,
) -> np.ndarray:
    """Automatic background of the CmFNet paper (AutoBG): erode the complement of the foreground, thin it to lines.

    The complement is eroded by `margin_mm` and by 2 and 4 times that; what is kept of each erosion is its one-pixel
    wide border towards the foreground, and of these lines arcs that add up to `coverage` of each slice (the paper's
    average is 0.06 % of the image), half of it nearest to the foreground, or all where that is a few pixels.

    Args:
        mask: uint8 (k, j, i), 0 = background, 1..254 = classes, 255 = ignored.
        spacing: (k, j, i) in mm.
        rng: numpy generator.
        slices: indices k to draw on; None is every slice that holds foreground.
        body: boolean (k, j, i) where background may be; None is the whole grid.
        margin_mm: distance in the slice that always stays free around the foreground.
        coverage: share of the pixels of a slice to draw, one short arc at least.

    Returns:
        uint8 (k, j, i): 0 on background lines, 255 elsewhere.
    """
    _require_shares(margin_mm, coverage)
    result = np.full(mask.shape, UNLABELLED, dtype=np.uint8)
    foreground = (mask != BACKGROUND) & (mask != UNLABELLED)
    chosen = np.flatnonzero(foreground.any(axis=(1, 2))) if slices is None else slices
    stream = int(rng.integers(2**32))
    for k in chosen:
        allowed = (mask[k] == BACKGROUND) if body is None else (mask[k] == BACKGROUND) & body[k]
        origin = foreground[k] if foreground[k].any() else _nearest_foreground(foreground, int(k))
        distance = _distance_to(origin, spacing[1:])
        local = np.random.default_rng((stream, int(k)))
        lines = _lines_of_erosions(distance, allowed, margin_mm, coverage * allowed.size, local)
        result[k][lines & allowed & (distance > 0.5 * margin_mm)] = BACKGROUND
    return result


def background_from_scribbles(
    scribbles: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    body: np.ndarray | None = None,
    margin_mm: float = 30.0,
    coverage: float = AUTO_COVERAGE,
) -> np.ndarray:
    """Propose background where only scribbles are known, in the slices that hold foreground scribbles.

    The organs are unknown. What is eroded is the complement of the convex hull of all foreground scribbles of a slice
    and its scribbled neighbours, by a margin in all three directions (mm). The margin has to exceed how far an organ
    reaches beyond this hull; nothing can check that.

    Args:
        scribbles: uint8 (k, j, i), 0 = background, 1..254 = classes, 255 = unlabelled.
        spacing: (k, j, i) in mm.
        rng: numpy generator.
        body: boolean (k, j, i) where background may be; None is the whole grid.
        margin_mm: distance that stays free around every foreground scribble.
        coverage: share of the pixels of a slice to draw, one short arc at least.

    Returns:
        uint8 (k, j, i): the scribbles with the proposed background added; no given label is changed.

    Raises:
        InputError: there is no foreground scribble, or no room for background at this margin.
    """
    _require_shares(margin_mm, coverage)
    foreground = (scribbles != BACKGROUND) & (scribbles != UNLABELLED)
    if not foreground.any():
        raise InputError(
            "Background can only be proposed around foreground scribbles, and there are none. "
            "Scribble at least one class."
        )
    distance = distance_transform_edt(~_hulls(foreground), spacing)
    stream = int(rng.integers(2**32))
    result = scribbles.copy()
    for k in np.flatnonzero(foreground.any(axis=(1, 2))):
        allowed = distance[k] >= margin_mm if body is None else (distance[k] >= margin_mm) & body[k]
        local = np.random.default_rng((stream, int(k)))
        lines = _lines_of_erosions(distance[k], allowed, margin_mm, coverage * allowed.size, local)
        result[k][lines & allowed & (scribbles[k] == UNLABELLED)] = BACKGROUND
    if not (result == BACKGROUND).any():
        raise InputError(
            f"No background is left at {margin_mm:g} mm from the scribbled foreground. "
            "Scribble some background by hand, or choose a smaller margin."
        )
    return result


def _hulls(foreground: np.ndarray) -> np.ndarray:
    """Boolean (k, j, i): the convex hull of the foreground of each slice and of its neighbours that hold foreground."""
    filled = np.flatnonzero(foreground.any(axis=(1, 2)))
    hulls = np.zeros_like(foreground)
    for place, k in enumerate(filled):
        near = filled[max(0, place - 1) : place + 2]
        hulls[k] = _convex_hull(foreground[near].any(axis=0))
    return hulls


def _require_shares(margin_mm: float, coverage: float) -> None:
    if not (np.isfinite(margin_mm) and margin_mm > 0):
        raise InputError(f"The background margin must be a positive number of mm, got {margin_mm}.")
    if not 0 < coverage <= 1:
        raise InputError(f"The background coverage must be a share in (0, 1], got {coverage}.")


def _nearest_foreground(foreground: np.ndarray, k: int) -> np.ndarray:
    """Foreground (rows, columns) of the slice with foreground that is nearest to slice k; empty when there is none."""
    filled = np.flatnonzero(foreground.any(axis=(1, 2)))
    return foreground[filled[np.argmin(np.abs(filled - k))]] if len(filled) else foreground[k]


def _distance_to(region: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Distance in mm to the region (rows, columns), or to the middle of the slice where the region is empty."""
    target = region
    if not region.any():
        target = np.zeros(region.shape, dtype=bool)
        target[region.shape[0] // 2, region.shape[1] // 2] = True
    return distance_transform_edt(~target, spacing)


def _lines_of_erosions(
    distance: np.ndarray, allowed: np.ndarray, margin_mm: float, budget_px: float, rng: np.random.Generator
) -> np.ndarray:
    """Arcs (bool, rows × columns) along the borders of nested erosions that add up to about `budget_px` pixels.

    Half of the budget goes to the erosion by the margin, half of the rest to the next one, and so on; what is too
    little for two of them goes to the nearer one. A slice gets one shortest arc, however small it is.
    """
    drawn = np.zeros(distance.shape, dtype=bool)
    left = max(budget_px, _SHORTEST_ARC_PX)
    for depth in _RING_DEPTHS:
        is_divisible = left >= 2 * _SHORTEST_ARC_PX and depth != _RING_DEPTHS[-1]
        share = 0.5 * left if is_divisible else left
        ring = _ring_arcs(distance, allowed, 1.05 * depth * margin_mm, share, rng)
        left -= float(ring.sum())
        drawn |= ring
    if not drawn.any() and allowed.any():
        farthest = np.where(allowed, distance, -1.0)
        drawn[np.unravel_index(np.argmax(farthest), farthest.shape)] = True
    return drawn


def _ring_arcs(
    distance: np.ndarray, allowed: np.ndarray, level: float, budget_px: float, rng: np.random.Generator
) -> np.ndarray:
    """Arcs of one level line of the distance, at most about `budget_px` pixels, only on allowed pixels."""
    drawn = np.zeros(distance.shape, dtype=bool)
    lines = level_lines(distance, level)
    if not lines:
        return drawn
    lengths = np.array([polyline_length(line) for line in lines])
    for _ in range(_ARC_ATTEMPTS):
        left = budget_px - float(drawn.sum())
        if left < _SHORTEST_ARC_PX:
            break
        index = int(rng.choice(len(lines), p=lengths / lengths.sum()))
        length = min(left, max(_SHORTEST_ARC_PX, 0.5 * budget_px), _LONGEST_ARC_SHARE * lengths[index])
        arc = draw_points(random_arc(lines[index], length, rng), distance.shape)
        if (arc & allowed).sum() >= 0.5 * arc.sum():
            drawn |= arc & allowed
    return drawn


def _within(region: np.ndarray, distance_mm: float, spacing: tuple[float, float]) -> np.ndarray:
    """Pixels (rows, columns) at most this far from the region; none when the region is empty."""
    if not region.any():
        return region
    return distance_transform_edt(~region, spacing) <= distance_mm


def _convex_hull(region: np.ndarray) -> np.ndarray:
    """Pixels inside of the convex hull of a boolean 2D region; the region itself where it is flat or tiny."""
    rows = np.flatnonzero(region.any(axis=1))
    columns = np.flatnonzero(region.any(axis=0))
    if len(rows) < 2 or len(columns) < 2:
        return region
    ends = [(row, edge(np.flatnonzero(region[row]))) for row in rows for edge in (np.min, np.max)]
    try:
        equations = ConvexHull(np.array(ends)).equations
    except QhullError:  # all pixels on one oblique line
        return region
    across = np.arange(columns[0], columns[-1] + 1)[None, :]
    down = np.arange(rows[0], rows[-1] + 1)[:, None]
    hull = np.ones((down.size, across.size), dtype=bool)
    for normal_row, normal_column, shift in equations:
        hull &= normal_row * down + normal_column * across + shift <= 1e-9
    inside = np.zeros(region.shape, dtype=bool)
    inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = hull
    return inside
