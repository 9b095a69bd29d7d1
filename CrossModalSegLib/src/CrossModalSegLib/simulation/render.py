"""Rendering an anatomy on a voxel grid with partial volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .anatomy import Anatomy, Coordinates, Part
from .shapes import Shape

Displacement = Callable[[np.ndarray, np.ndarray, np.ndarray], Coordinates]
_MIN_WEIGHT = 1e-3
_MARGIN = 2  # voxels around a solid's box, for gradients and partial volume


@dataclass(frozen=True, eq=False)
class Layer:
    """What is visible of one part.

    Attributes:
        part: The part.
        index: Its place in the anatomy's list.
        window: Block of the grid that holds it, slices (k, j, i).
        weight: Share of each voxel of the block that this part fills, float32 in 0..1.
    """

    part: Part
    index: int
    window: tuple[slice, slice, slice]
    weight: np.ndarray


def voxel_centres(affine: np.ndarray, shape: tuple[int, int, int]) -> Coordinates:
    """Positions x, y, z (LPS mm, float32, each (k, j, i)) of all voxels of a grid."""
    k, j, i = (np.arange(size, dtype=np.float32) for size in shape)
    columns = affine.astype(np.float32)
    return tuple(
        (row[2] * k)[:, None, None] + (row[1] * j)[None, :, None] + (row[0] * i)[None, None, :] + row[3]
        for row in columns[:3]
    )


def occupancy(distance: np.ndarray, partial_volume: bool = True) -> np.ndarray:
    """Share of each voxel inside the surface `distance` = 0, from distances at voxel centres (k, j, i).

    The surface is taken as flat across a voxel: along its normal the voxel is sum |d distance / d axis| wide, and the
    share falls linearly over that width.
    """
    if not partial_volume:
        return (distance < 0).astype(np.float32)
    width = np.full(distance.shape, 1e-3, dtype=np.float32)
    for axis in range(3):
        if distance.shape[axis] > 1:
            width += np.abs(np.gradient(distance, axis=axis))
    share = np.float32(0.5) - distance / width
    return np.clip(share, 0, 1, out=share)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where a grid's voxels lie in anatomy coordinates.

    Attributes:
        points: Warped voxel centres x, y, z, each (k, j, i).
        matrix: 3x4, voxel index (i, j, k, 1) to anatomy coordinates without the smooth warp.
        least: Smallest displacement by the smooth warp along x, y and z, mm.
        most: Largest displacement along each axis, mm.
    """

    points: Coordinates
    matrix: np.ndarray
    least: np.ndarray
    most: np.ndarray

    def window(self, shape: Shape) -> tuple[slice, slice, slice] | None:
        """The block of the grid that holds a solid; None where there is none."""
        size = np.array(self.points[0].shape[::-1])
        ends = np.array(np.meshgrid(*((0, n - 1) for n in size), indexing="ij")).reshape(3, -1)
        field_of_view = self.matrix[:, :3] @ ends + self.matrix[:, 3:]
        low = np.maximum(np.array(shape.low) - self.most, field_of_view.min(axis=1))
        high = np.minimum(np.array(shape.high) - self.least, field_of_view.max(axis=1))
        if (low > high).any():
            return None
        corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
        index = np.linalg.solve(self.matrix[:, :3], corners - self.matrix[:, 3:])
        first = np.maximum(np.floor(index.min(axis=1)).astype(int) - _MARGIN, 0)
        last = np.minimum(np.ceil(index.max(axis=1)).astype(int) + _MARGIN, size - 1)
        if (first > last).any():
            return None
        return tuple(slice(int(a), int(b) + 1) for a, b in zip(first[::-1], last[::-1], strict=True))


def _grid(
    anatomy: Anatomy, affine: np.ndarray, shape: tuple[int, int, int], displacement: Displacement | None
) -> _Grid:
    centres = voxel_centres(affine, shape)
    posed = anatomy.warp.linear(*centres)
    points = anatomy.warp(*(centres if displacement is None else displacement(*centres)))
    moved = [after - before for after, before in zip(points, posed, strict=True)]
    matrix = anatomy.warp.matrix @ affine[:3]
    matrix[:, 3] += anatomy.warp.shift
    least, most = (np.array([float(bound(each)) for each in moved]) for bound in (np.min, np.max))
    return _Grid(points, matrix, least, most)


def render(
    anatomy: Anatomy,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    *,
    partial_volume: bool = True,
    displacement: Displacement | None = None,
) -> list[Layer]:
    """Find which share of each voxel every part fills.

    Args:
        anatomy: What to render.
        affine: Voxel index (i, j, k, 1) to LPS mm, 4x4.
        shape: Grid shape (k, j, i).
        partial_volume: False gives each voxel wholly to the part at its centre.
        displacement: Moves voxel centres (x, y, z mm) before the anatomy is looked up.

    Returns:
        Layers whose weights add up to one in every voxel that the first part covers.
    """
    grid = _grid(anatomy, affine, shape, displacement)
    free = np.ones(shape, dtype=np.float32)
    layers = []
    for index in range(len(anatomy.parts) - 1, -1, -1):
        part = anatomy.parts[index]
        for piece in part.shape.pieces or (part.shape,):
            layer = _layer(part, index, piece, grid, free, partial_volume)
            if layer is not None:
                layers.append(layer)
    return layers


def _layer(part: Part, index: int, piece: Shape, grid: _Grid, free: np.ndarray, partial_volume: bool) -> Layer | None:
    """What one piece of a part fills of the voxels' `free` shares, which it takes away from them."""
    window = grid.window(piece)
    if window is None:
        return None
    weight = occupancy(piece.distance(*(values[window] for values in grid.points)), partial_volume)
    weight *= free[window]
    window, weight = _trim(window, weight)
    if not weight.size:
        return None
    free[window] -= weight
    return Layer(part, index, window, weight)


def _trim(window: tuple[slice, ...], weight: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    filled = weight > _MIN_WEIGHT
    cut, keep = [], []
    for axis in range(3):
        line = np.flatnonzero(filled.any(axis=tuple(other for other in range(3) if other != axis)))
        if not line.size:
            return window, np.empty((0, 0, 0), dtype=np.float32)
        start = window[axis].start or 0
        cut.append(slice(start + int(line[0]), start + int(line[-1]) + 1))
        keep.append(slice(int(line[0]), int(line[-1]) + 1))
    return tuple(cut), np.ascontiguousarray(weight[tuple(keep)])


def label_mask(layers: list[Layer], shape: tuple[int, int, int], num_classes: int) -> np.ndarray:
    """The class that fills most of each voxel; background where no class fills more than the rest together.

    Returns:
        Array (k, j, i), uint8, values 0..num_classes - 1.
    """
    share = np.zeros((num_classes, *shape), dtype=np.float32)
    share[0] = 1.0
    for layer in layers:
        if layer.part.label:
            share[layer.part.label][layer.window] += layer.weight
            share[0][layer.window] -= layer.weight
    return share.argmax(axis=0).astype(np.uint8)
