"""Skeletons of 2D regions and the longest path through them."""

from __future__ import annotations

from collections import deque

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt, gaussian_filter1d

from .brush import draw_points, polyline_length, resample_polyline

# Thinning takes one pass per pixel of depth, so thick regions are thinned on a coarser grid.
MAX_DEPTH_PX = 12
COARSE_PIXELS = 96
_CHORD_SHARE = 0.75
# Straight steps first: among equally long paths the straight one is found.
_NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


def thin(region: np.ndarray) -> np.ndarray:
    """One-pixel-wide skeleton (bool, rows × columns) of a boolean 2D region, at its full resolution."""
    padded = np.zeros((region.shape[0] + 2, region.shape[1] + 2), dtype=np.uint8)
    padded[1:-1, 1:-1] = region
    skeleton = sitk.GetArrayFromImage(sitk.BinaryThinning(sitk.GetImageFromArray(padded)))
    return skeleton[1:-1, 1:-1].astype(bool) & region


def coarse_depth(region: np.ndarray) -> tuple[np.ndarray, int]:
    """Distance in pixels to the outside of a 2D region (rows / step, columns / step), and the step.

    Large regions are sampled at every `step`-th pixel: how deep they are need not be known to the pixel.
    """
    step = max(1, max(region.shape) // COARSE_PIXELS)
    depth = distance_transform_edt(np.pad(region[::step, ::step], 1))[1:-1, 1:-1]
    return depth * step, step


def _coarse_skeleton(region: np.ndarray, depth: float) -> tuple[np.ndarray, int]:
    """Skeleton of the region, whose depth is known, reduced by a factor to at most MAX_DEPTH_PX, and the factor."""
    factor = max(1, int(np.ceil(depth / MAX_DEPTH_PX)))
    if factor == 1:
        return thin(region), 1
    rows, columns = (-(-size // factor) for size in region.shape)
    padded = np.zeros((rows * factor, columns * factor), dtype=bool)
    padded[: region.shape[0], : region.shape[1]] = region
    reduced = padded.reshape(rows, factor, columns, factor).mean(axis=(1, 3)) >= 0.5
    return thin(reduced), factor


def _to_fine(points: np.ndarray, factor: int) -> np.ndarray:
    """Centres of coarse pixels (n, 2) in the pixels of the fine grid."""
    return points * factor + (factor - 1) / 2.0


def skeleton(region: np.ndarray) -> np.ndarray:
    """Skeleton of a boolean 2D region with all of its branches.

    Thick regions are thinned on a coarser grid and the lines are drawn back on the fine one, clipped to the region.

    Returns:
        Boolean (rows, columns), a subset of the region; empty only where the region is.
    """
    coarse, factor = _coarse_skeleton(region, coarse_depth(region)[0].max())
    if factor == 1:
        return coarse
    pixels = np.argwhere(coarse)
    segments = [_to_fine(pixels, factor)]
    shares = np.arange(1, 2 * factor)[:, None] / (2.0 * factor)
    for row, column in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shifted = np.roll(np.pad(coarse, 1), (-row, -column), axis=(0, 1))[1:-1, 1:-1]
        starts = np.argwhere(coarse & shifted)
        ends = starts + np.array([row, column])
        for share in shares:
            segments.append(_to_fine(starts + share * (ends - starts), factor))
    return draw_points(np.concatenate(segments), region.shape) & region


def _farthest(start: tuple[int, int], members: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Shortest path (by steps) from `start` to the member farthest from it."""
    origin: dict[tuple[int, int], tuple[int, int] | None] = {start: None}
    queue = deque([start])
    last = start
    while queue:
        last = queue.popleft()
        for row, column in _NEIGHBOURS:
            neighbour = (last[0] + row, last[1] + column)
            if neighbour in members and neighbour not in origin:
                origin[neighbour] = last
                queue.append(neighbour)
    path = [last]
    while (previous := origin[path[-1]]) is not None:
        path.append(previous)
    return path


def longest_path(skeleton_pixels: np.ndarray) -> np.ndarray:
    """Longest shortest path through the 8-connected pixels of a skeleton, which cuts its side branches.

    Found by two breadth-first sweeps in each connected part: exact for trees, at least half of a loop for rings.

    Args:
        skeleton_pixels: boolean (rows, columns).

    Returns:
        Ordered pixels (n, 2), n = 0 for an empty skeleton.
    """
    left = {(int(row), int(column)) for row, column in np.argwhere(skeleton_pixels)}
    best: list[tuple[int, int]] = []
    while left:
        sweep = _farthest(min(left), left)
        path = _farthest(sweep[0], left)
        best = max(best, path, key=len)
        left -= _connected(path[0], left)
    return np.array(best, dtype=float).reshape(-1, 2)


def _connected(start: tuple[int, int], members: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Members that are 8-connected to `start`."""
    found, stack = {start}, [start]
    while stack:
        here = stack.pop()
        for row, column in _NEIGHBOURS:
            neighbour = (here[0] + row, here[1] + column)
            if neighbour in members and neighbour not in found:
                found.add(neighbour)
                stack.append(neighbour)
    return found


def centre_line(region: np.ndarray, rng: np.random.Generator, smoothing: float = 2.0) -> np.ndarray:
    """Smooth main line of a boolean 2D region: its skeleton without side branches.

    The skeleton of a round region is little more than a dot, where a person draws a line: such regions get a chord in
    a random direction through their deepest pixel.

    Args:
        region: boolean (rows, columns).
        rng: chooses the direction of the chord.
        smoothing: standard deviation, in pixels of the (possibly coarser) skeleton, along the line.

    Returns:
        Points (n, 2) about half a pixel apart, in pixels; they can leave the region where it bends sharply.
    """
    depth, step = coarse_depth(region)
    coarse, factor = _coarse_skeleton(region, depth.max())
    path = longest_path(coarse)
    if len(path) > 2:
        path = gaussian_filter1d(path, smoothing, axis=0, mode="nearest")
    line = resample_polyline(_to_fine(path, factor))
    return _chord(depth, step, rng) if polyline_length(line) < depth.max() else line


def _chord(depth: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """Line (n, 2) through the deepest pixel, inside of the largest circle that fits."""
    centre = np.array(np.unravel_index(np.argmax(depth), depth.shape), dtype=float) * step
    angle = rng.uniform(0.0, np.pi)
    reach = _CHORD_SHARE * (depth.max() - 1.0) * np.array([np.sin(angle), np.cos(angle)])
    return resample_polyline(np.stack([centre - reach, centre + reach]))
