"""Grids that are hard on geometry."""

from __future__ import annotations

import numpy as np


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """(3, 3) rotation by angles about the axes, radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos((x, y, z)), np.sin((x, y, z))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def grid_affine(
    spacing_ijk: tuple[float, float, float], angles: tuple[float, float, float], origin: object
) -> np.ndarray:
    """(4, 4) affine of a rotated grid."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(*angles) * np.asarray(spacing_ijk)
    affine[:3, 3] = origin
    return affine
