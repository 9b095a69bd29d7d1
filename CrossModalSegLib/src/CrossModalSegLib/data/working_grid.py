"""The grid on which networks see a case, and the resampling between it and the images' own grid.

A working grid keeps the case's axes (they may be flipped, permuted or given another spacing, never rotated), so
resampling is one linear map of indices per axis, taken from the two affines: nothing is shifted and nothing but the
interpolation itself is approximated.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter1d

from CrossModalSegLib.errors import GeometryError, InputError
from CrossModalSegLib.volume import Volume

Interpolation = Literal["linear", "nearest"]
Orientation = Literal["lps", "flip", "native", "slices"]

# An index this close to a voxel's centre is taken as the centre: affines carry rounding errors of float64.
SNAP_VOXELS = 1e-6
# Voxels this much longer along one axis than along both others show how an image was acquired.
THICK_SLICES = 1.5
# Of a working grid: each modality would take 32 GiB.
MOST_VOXELS = 2**33
# An axis of a working grid may deviate this much from an axis of the source grid, in voxels over its whole length.
ALIGNMENT_VOXELS = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid without voxels.

    Attributes:
        shape: (k, j, i).
        affine: (4, 4) float64, voxel index (i, j, k, 1) -> LPS mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm, (k, j, i)."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(s) for s in lengths[::-1])

    def volume(self, array: np.ndarray | None = None) -> Volume:
        """A Volume on this grid; without an array it costs no memory: one zero, shown at every voxel."""
        if array is None:
            array = np.broadcast_to(np.zeros(1, np.uint8), self.shape)
        return Volume(array, self.affine)


def grid_of(volume: Volume) -> Grid:
    """The grid of a volume."""
    return Grid(tuple(int(n) for n in volume.array.shape), np.array(volume.affine, np.float64))


def working_grid(source: Grid, spacing: tuple[float, float, float] | None, orientation: Orientation = "flip") -> Grid:
    """The grid on which a network sees a case.

    Args:
        source: Grid of the images.
        spacing: mm, (k, j, i) of the working grid; None keeps the spacing of the source.
        orientation: "flip" turns axes round so that each points to the L, P or S side it is closest to: a left-right
            mirrored storage order then makes no difference to a network. "lps" also permutes the axes, so that k is
            the one closest to S and i the one closest to L. "slices" does so unless voxels are clearly longer along one
            axis, across which the image was then acquired: that axis becomes k, whatever way it points, and of the
            other two i is the one closer to L, or to P where neither is. "native" keeps the storage order.

    Raises:
        InputError: The spacing makes more voxels than any memory holds.
    """
    oriented = _oriented(source, orientation)
    return oriented if spacing is None else _respaced(oriented, spacing)


def reordered(source: Grid, order: tuple[int, ...], is_reversed: tuple[bool, ...]) -> Grid:
    """The same voxels with other axes.

    Args:
        source: Grid of the voxels.
        order: Axes (i, j, k) of the source in their new order.
        is_reversed: Of the axes in their new order, which run the other way.
    """
    size = source.shape[::-1]
    to_source = np.zeros((4, 4))
    to_source[3, 3] = 1.0
    for new_axis, (axis, turned) in enumerate(zip(order, is_reversed)):
        to_source[axis, new_axis] = -1.0 if turned else 1.0
        to_source[axis, 3] = size[axis] - 1.0 if turned else 0.0
    return Grid(tuple(size[axis] for axis in reversed(order)), source.affine @ to_source)


def _oriented(source: Grid, orientation: Orientation) -> Grid:
    if orientation == "native":
        return source
    columns = source.affine[:3, :3]
    cosines = columns / np.linalg.norm(columns, axis=0)
    closest = max(permutations(range(3)), key=lambda axes: sum(abs(cosines[w, a]) for w, a in enumerate(axes)))
    world_of_axis = {axis: world for world, axis in enumerate(closest)}
    order = {"lps": closest, "flip": (0, 1, 2), "slices": _slices_last(closest, source.spacing[::-1])}[orientation]
    return reordered(source, order, tuple(cosines[world_of_axis[axis], axis] < 0 for axis in order))


def _slices_last(closest: tuple[int, ...], spacing: tuple[float, float, float]) -> tuple[int, ...]:
    """Axes (i, j, k) of the source in their new order.

    Args:
        closest: The axes closest to L, P and S.
        spacing: mm of the axes (i, j, k).
    """
    thickest = max(closest, key=lambda axis: spacing[axis])
    others = [axis for axis in closest if axis != thickest]
    if spacing[thickest] < THICK_SLICES * max(spacing[axis] for axis in others):
        return closest
    return (*others, thickest)


def _respaced(source: Grid, spacing: tuple[float, float, float]) -> Grid:
    """Same centre and directions; enough voxels to cover the source's field of view: no outermost slice is lost."""
    old_size = np.array(source.shape[::-1], np.float64)
    step = np.array(spacing[::-1]) / np.array(source.spacing[::-1])
    new_size = np.ceil(old_size / step - 1e-6)
    if np.prod(new_size) > MOST_VOXELS:
        raise InputError(
            f"A working spacing of {', '.join(f'{mm:g}' for mm in spacing)} mm makes {np.prod(new_size):.2g} voxels of "
            f"an image with {' by '.join(map(str, source.shape))} voxels; choose a larger one."
        )
    to_source = np.diag([*step, 1.0])
    to_source[:3, 3] = (old_size - 1) / 2 - step * (new_size - 1) / 2
    return Grid(tuple(int(n) for n in new_size[::-1]), source.affine @ to_source)


def resample_aligned(array: np.ndarray, source: Grid, target: Grid, interpolation: Interpolation) -> np.ndarray:
    """`array` at the voxel centres of `target`, whose axes are those of `source` up to order, direction and spacing.

    Beyond the outermost voxel centres the outermost value holds. Where the target's voxels are larger, a linear
    resampling first blurs with a Gaussian of (ratio - 1) / 2 voxels, against aliasing; a linear ramp stays exact.

    Args:
        array: (k, j, i) on `source`.
        source: Grid of `array`.
        target: Grid of the result.
        interpolation: "linear" (float32 result) or "nearest" (the array's dtype).

    Returns:
        (k, j, i) of `target`; a view of `array` where only axes are flipped or permuted.

    Raises:
        GeometryError: The target's axes are not those of the source.
    """
    if tuple(array.shape) != tuple(source.shape):
        raise GeometryError(f"The array has the shape {array.shape}; its grid has {source.shape}.")
    order, steps, offsets = _axis_maps(source, target)
    result = array.transpose(order)
    for axis in range(3):
        result = _resample_axis(result, axis, target.shape[axis], steps[axis], offsets[axis], interpolation)
    return result


def is_reordering(source: Grid, target: Grid) -> bool:
    """Whether the two grids have the same voxels, up to flipped and permuted axes."""
    order, steps, offsets = _axis_maps(source, target)
    indices = (_indices(n, step, offset) for n, step, offset in zip(target.shape, steps, offsets))
    same_size = tuple(source.shape[axis] for axis in order) == tuple(target.shape)
    return same_size and all(np.array_equal(np.sort(x), np.arange(x.size)) for x in indices)


def _axis_maps(source: Grid, target: Grid) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """For each axis (k, j, i) of `target`: the axis of `source` it runs along, and step and offset of its index."""
    matrix = np.linalg.inv(source.affine) @ target.affine
    linear = matrix[:3, :3]
    along = np.abs(linear).argmax(axis=0)
    rest = np.abs(linear).copy()
    rest[along, range(3)] = 0.0
    if len(set(along.tolist())) != 3 or (rest * np.array(target.shape[::-1])).max() > ALIGNMENT_VOXELS:
        raise GeometryError(
            "The working grid and the image grid do not share their axes: "
            "resample the volume onto the wanted grid with resample_like first."
        )
    order = tuple(int(2 - along[2 - axis]) for axis in range(3))
    steps = tuple(float(linear[along[2 - axis], 2 - axis]) for axis in range(3))
    offsets = tuple(float(matrix[along[2 - axis], 3]) for axis in range(3))
    return order, steps, offsets


def _indices(count: int, step: float, offset: float) -> np.ndarray:
    positions = step * np.arange(count, dtype=np.float64) + offset
    nearest = np.rint(positions)
    return np.where(np.abs(positions - nearest) < SNAP_VOXELS, nearest, positions)


def _resample_axis(
    array: np.ndarray, axis: int, count: int, step: float, offset: float, interpolation: Interpolation
) -> np.ndarray:
    positions = _indices(count, step, offset)
    size = array.shape[axis]
    if count == size and np.array_equal(positions, np.arange(size)):
        return array
    if count == size and np.array_equal(positions, np.arange(size)[::-1]):
        return np.flip(array, axis)
    if interpolation == "nearest":
        return array.take(np.clip(np.floor(positions + 0.5), 0, size - 1).astype(np.intp), axis=axis)
    array = np.asarray(array, np.float32)
    if abs(step) > 1 and size > 1:
        array = gaussian_filter1d(array, (abs(step) - 1) / 2, axis=axis, mode="nearest")
    return _lerp(array, axis, np.clip(positions, 0, size - 1))


def _lerp(array: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    low = np.floor(positions).astype(np.intp)
    high = np.minimum(low + 1, array.shape[axis] - 1)
    weight_shape = [1, 1, 1]
    weight_shape[axis] = positions.size
    weight = (positions - low).astype(np.float32).reshape(weight_shape)
    result = array.take(low, axis=axis)
    difference = array.take(high, axis=axis)
    difference -= result
    difference *= weight
    result += difference
    return result
