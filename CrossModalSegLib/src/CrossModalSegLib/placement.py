"""How two volumes lie to each other in patient space, from their grids alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from .volume import Volume, same_geometry

State = Literal["same grid", "same patient space", "apart"]

_SAME_SPACE_OVERLAP = 0.25
_LATTICE_POINTS = 60_000


@dataclass(frozen=True)
class Placement:
    """How two volumes lie to each other.

    Attributes:
        state: "same grid" (equal geometry), "same patient space" (they overlap), or "apart".
        overlap: Share of the smaller volume's box that lies inside the other one, 0..1.
    """

    state: State
    overlap: float


def placement(a: Volume, b: Volume) -> Placement:
    """Judge how two volumes lie to each other; their voxels' values do not matter.

    Panels ask again with every change that they show, so the last answers are kept.
    """
    return _placement(*((volume.shape, tuple(volume.affine.ravel())) for volume in (a, b)))


@lru_cache(maxsize=64)
def _placement(*grids: tuple[tuple[int, int, int], tuple[float, ...]]) -> Placement:
    a, b = (Volume(np.broadcast_to(np.uint8(0), shape), np.reshape(affine, (4, 4))) for shape, affine in grids)
    if same_geometry(a, b):
        return Placement("same grid", 1.0)
    overlap = shared_share(a, b)
    return Placement("apart" if overlap < _SAME_SPACE_OVERLAP else "same patient space", overlap)


def shared_share(a: Volume, b: Volume) -> float:
    """Share of the smaller volume's box that lies inside the other one, 0..1."""
    return float(max(inside(lattice(a), b).mean(), inside(lattice(b), a).mean()))


def lattice(volume: Volume) -> np.ndarray:
    """Evenly spread voxel centres of a volume, (3, N) LPS mm, N at most about 60,000."""
    step = max(1, int(np.ceil((volume.array.size / _LATTICE_POINTS) ** (1 / 3))))
    lines = [np.arange((n - 1) % step // 2, n, step) for n in volume.shape[::-1]]
    index = np.stack(np.meshgrid(*lines, indexing="ij")).reshape(3, -1)
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3:]


def inside(points: np.ndarray, volume: Volume) -> np.ndarray:
    """Which points (3, N), LPS mm, lie inside a volume: boolean (N,)."""
    index = np.linalg.solve(volume.affine[:3, :3], points - volume.affine[:3, 3:])
    size = np.array(volume.shape[::-1])[:, None]
    return ((index >= -0.5) & (index <= size - 0.5)).all(axis=0)
