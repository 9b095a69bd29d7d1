"""Surfaces of masks on a grid, and how far one lies from another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from monai.metrics.utils import get_code_to_measure_table
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from ..progress import CancelToken

# Nearest elements are looked up in the grid so many voxels around; further where there are so many that trees are slow.
_REACH, _FAR_REACH, _MANY = 1, 3, 1_000_000
# Masks have this much around them, so that what is looked up around an element of their surface lies in the array.
MARGIN = _FAR_REACH + 1
# How much is done at a time, between two looks at whether to stop.
_SLICES, _LOOKED_UP, _QUERIED, _IN_TREE = 16, 200_000, 20_000, 1_000_000


def border(mask: np.ndarray) -> np.ndarray:
    """Voxels that a 6-connected erosion removes.

    Args:
        mask: bool (k, j, i), with a margin of `MARGIN` voxels that are not in it.
    """
    return mask & ~binary_erosion(mask)


def surface_elements(mask: np.ndarray, spacing: Sequence[float], cancel: CancelToken) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface passes between the centres of 8 voxels, and its area there.

    Args:
        mask: bool (k, j, i), with a margin of `MARGIN` voxels that are not in it.
        spacing: mm (k, j, i).
        cancel: looked at often.

    Returns:
        Bool, in each axis one less than the mask, and mm² of each element in flat order.

    Raises:
        Cancelled: on request.
    """
    table, kernel = get_code_to_measure_table(tuple(spacing))
    weights = kernel.numpy().astype(np.uint8).reshape(2, 2, 2)
    elements = np.empty([size - 1 for size in mask.shape], bool)
    areas = []
    for slab in _parts(len(elements), _SLICES):
        cancel.raise_if_cancelled()
        codes = _codes(mask[slab.start : slab.stop + 1], weights)
        elements[slab] = (codes != 0) & (codes != 255)
        areas.append(table.numpy()[codes[elements[slab]]])
    return elements, np.concatenate(areas)


def _codes(mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of 2 x 2 x 2 voxels which are in the mask, as the sum of their weights, uint8."""
    codes = np.zeros([size - 1 for size in mask.shape], np.uint8)
    for corner in product((0, 1), repeat=3):
        part = mask[tuple(slice(at, at + size) for at, size in zip(corner, codes.shape, strict=True))]
        codes += part * weights[corner]
    return codes


def distances(first: np.ndarray, second: np.ndarray, axes: np.ndarray, cancel: CancelToken) -> np.ndarray:
    """From each element of one surface to the nearest of another.

    Most elements have one around them, and are looked up in the grid; a tree is asked for all others.

    Args:
        first, second: bool (k, j, i) of one shape, neither of them empty; nothing lies in their outermost 3 layers.
        axes: mm (3, 3), a row for one step in k, j and i.
        cancel: looked at often.

    Returns:
        mm, float32, in the flat order of `first`.

    Raises:
        Cancelled: on request.
    """
    places, others = np.flatnonzero(first), np.flatnonzero(second)
    found = np.full(len(places), np.inf, np.float32)
    near = list(_near(second.shape, axes, _REACH if len(others) <= _MANY else _FAR_REACH))
    for part in _parts(len(places), _LOOKED_UP):
        cancel.raise_if_cancelled()
        found[part] = _looked_up(places[part], second.ravel(), near)
    far = np.flatnonzero(np.isinf(found))
    if len(far):
        found[far] = _from_trees(places[far], others, second.shape, axes, cancel)
    return found


def _near(shape: tuple[int, ...], axes: np.ndarray, voxels: int) -> Iterator[tuple[int, float]]:
    """What lies around as (step in flat order, mm), the nearest first, as far as nothing so near is left out."""
    steps = np.array(list(product(range(-voxels, voxels + 1), repeat=3)))
    lengths = np.linalg.norm(steps @ axes, axis=1)
    reach = ((voxels + 1) / np.linalg.norm(np.linalg.inv(axes), axis=0)).min()  # how near others may be
    flat = steps @ (shape[1] * shape[2], shape[2], 1)
    for index in np.argsort(lengths, kind="stable"):
        if lengths[index] <= reach:
            yield int(flat[index]), float(lengths[index])


def _looked_up(places: np.ndarray, flags: np.ndarray, near: list[tuple[int, float]]) -> np.ndarray:
    """Distances to the nearest flag where that is near, else infinity."""
    found = np.full(len(places), np.inf, np.float32)
    left = np.arange(len(places))
    for step, length in near:
        is_hit = flags[places[left] + step]
        found[left[is_hit]] = length
        left = left[~is_hit]
        if not len(left):
            break
    return found


def _from_trees(
    places: np.ndarray, others: np.ndarray, shape: tuple[int, ...], axes: np.ndarray, cancel: CancelToken
) -> np.ndarray:
    """Distances to the nearest of the others; of many, a part is a tree at a time: nothing stops the making of one."""
    found = np.full(len(places), np.inf)
    for grown in _parts(len(others), _IN_TREE):
        cancel.raise_if_cancelled()
        tree = KDTree(_points(others[grown], shape, axes), leafsize=32, balanced_tree=False, compact_nodes=False)
        for part in _parts(len(places), _QUERIED):
            cancel.raise_if_cancelled()
            points = _points(places[part], shape, axes)
            found[part] = np.minimum(found[part], tree.query(points, distance_upper_bound=found[part].max())[0])
    return found


def _points(places: np.ndarray, shape: tuple[int, ...], axes: np.ndarray) -> np.ndarray:
    return np.stack(np.unravel_index(places, shape), axis=1).astype(float) @ axes


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
