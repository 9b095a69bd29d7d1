"""Which voxels of a volume a round brush touches on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.volume import nearest_index

from .geometry import ijk_to_ras, parent_to_world
from .volumes import read_grid

if TYPE_CHECKING:
    from slicer import vtkMRMLVolumeNode

_STEPS_PER_VOXEL = 2.0


def brushed(
    volume: vtkMRMLVolumeNode, start: np.ndarray, end: np.ndarray, normal: np.ndarray, radius_mm: float
) -> np.ndarray:
    """Voxels under a disc that moves straight from one point to another in a slice of a view.

    Those whose centres lie under the disc, in the one layer of voxels that the slice cuts; and in any case those that
    the middle of the disc runs through, so that a brush finer than the voxels draws, too.

    Args:
        volume: whose voxels are meant.
        start, end: (3,) RAS mm of the world.
        normal: (3,) of the slice, RAS; its length does not matter.
        radius_mm: of the disc, above 0.

    Returns:
        (N,) places in the raveled (k, j, i) array, none twice; empty outside of the volume.

    Raises:
        InputError: the radius is not above 0, or the node is no volume.
        GeometryError: a parent transform is not linear.
    """
    if not radius_mm > 0:
        raise InputError(f"The radius of a brush should be above 0 mm, got {radius_mm:g}.")
    shape = read_grid(volume).shape
    to_world = parent_to_world(volume) @ ijk_to_ras(volume)
    start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    normal = np.asarray(normal, dtype=np.float64) / np.linalg.norm(normal)
    index = np.concatenate(
        [_along(to_world, start, end, shape), _under_disc(to_world, start, end, normal, radius_mm, shape)], axis=1
    )
    return np.unique(np.ravel_multi_index(tuple(index[::-1]), shape))


def _along(to_world: np.ndarray, start: np.ndarray, end: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(3, N) in (i, j, k): voxels on the line."""
    length = np.linalg.norm(np.linalg.solve(to_world[:3, :3], end - start))
    steps = np.linspace(0.0, 1.0, int(np.ceil(length * _STEPS_PER_VOXEL)) + 1)
    points = start[:, None] + (end - start)[:, None] * steps
    return nearest_index(np.linalg.inv(to_world), points, shape)[0]


def _under_disc(
    to_world: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    normal: np.ndarray,
    radius: float,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """(3, N) in (i, j, k): voxels with their centres under the disc."""
    to_index = np.linalg.inv(to_world)
    ends = to_index[:3, :3] @ np.stack([start, end], axis=1) + to_index[:3, 3:]
    half_layer = 0.5 * np.abs(normal @ to_world[:3, :3]).max()
    reach = (radius + half_layer) * np.linalg.norm(to_index[:3, :3], axis=1)
    low = np.maximum(np.ceil(ends.min(axis=1) - reach), 0).astype(int)
    high = np.minimum(np.floor(ends.max(axis=1) + reach), np.array(shape[::-1]) - 1).astype(int)
    if (low > high).any():
        return np.zeros((3, 0), dtype=np.int64)
    index = np.stack(np.meshgrid(*map(np.arange, low, high + 1), indexing="ij")).reshape(3, -1)
    offset = to_world[:3, :3] @ index + (to_world[:3, 3] - start)[:, None]
    above = normal @ offset
    # Half open, so that a slice between two layers takes one of them.
    is_in_layer = (above > -half_layer + 1e-6) & (above <= half_layer + 1e-6)
    way = end - start
    share = np.clip(way @ offset / max(way @ way, 1e-12), 0.0, 1.0)
    beside = offset - normal[:, None] * above - way[:, None] * share
    return index[:, is_in_layer & ((beside**2).sum(axis=0) <= radius**2)]
