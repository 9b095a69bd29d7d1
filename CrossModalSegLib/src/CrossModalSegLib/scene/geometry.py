"""Where nodes lie: the only place where 3D Slicer's world (RAS mm) and the library's (LPS mm) meet.

A node's own matrices say where it lies below its parent transforms. Everything here that is called world has these
applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from CrossModalSegLib.errors import GeometryError

if TYPE_CHECKING:
    from slicer import vtkMRMLTransformableNode, vtkMRMLVolumeNode

_MOST_UNEVEN = 1e9  # how much longer a transform may make one direction than another
_FLIP = np.diag((-1.0, -1.0, 1.0, 1.0))


def to_lps(affine: np.ndarray) -> np.ndarray:
    """The (4, 4) affine to LPS mm of one to RAS mm."""
    return _FLIP @ affine


def to_ras(affine: np.ndarray) -> np.ndarray:
    """The (4, 4) affine to RAS mm of one to LPS mm."""
    return _FLIP @ affine


def movement_to_ras(matrix: np.ndarray) -> np.ndarray:
    """The (4, 4) matrix that moves RAS points as `matrix` moves LPS points; and the other way round."""
    return _FLIP @ matrix @ _FLIP


def from_vtk(matrix: vtkMatrix4x4) -> np.ndarray:
    """(4, 4) float64."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_vtk(matrix: np.ndarray) -> vtkMatrix4x4:
    """A matrix for VTK."""
    result = vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, dtype=np.float64).ravel().tolist())
    return result


def parent_to_world(node: vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4) of all transforms above a node, RAS mm; the identity where there is none.

    Raises:
        GeometryError: one of them is not linear, or cannot be undone.
    """
    return transform_to_world(node.GetParentTransformNode(), node)


def transform_to_world(transform: vtkMRMLTransformableNode | None, node: vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4) of a transform node and all above it, RAS mm; the identity for None.

    Args:
        transform: a transform node, or None.
        node: what lies below it, for the error.

    Raises:
        GeometryError: one of them is not linear, or cannot be undone.
    """
    if transform is None:
        return np.eye(4)
    matrix = vtkMatrix4x4()
    if not transform.IsTransformToWorldLinear() or not transform.GetMatrixTransformToWorld(matrix):
        raise GeometryError(
            f"'{node.GetName()}' lies under a transform that is not linear ('{transform.GetName()}' or one above it). "
            "Harden it (in the module Transforms, or by a right click in the module Data), then start again."
        )
    to_world = from_vtk(matrix)
    if not np.isfinite(to_world).all() or np.linalg.cond(to_world[:3, :3]) > _MOST_UNEVEN:
        raise GeometryError(
            f"'{node.GetName()}' lies under a transform that cannot be undone ('{transform.GetName()}' or one above "
            "it): it makes a volume flat. Correct its matrix in the module Transforms, or take it away."
        )
    return to_world


def ijk_to_ras(volume: vtkMRMLVolumeNode) -> np.ndarray:
    """(4, 4) from the first stored voxel's index (0, 0, 0, 1) to RAS mm below the parent transforms."""
    matrix = vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return from_first_voxel(from_vtk(matrix), volume.GetImageData())


def from_first_voxel(affine: np.ndarray, image: vtkImageData | None) -> np.ndarray:
    """The affine from indices that count from 0 at the first stored voxel, of one from VTK's own indices."""
    if image is None:
        return affine
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ image.GetExtent()[::2]
    return shifted


def world_affine(volume: vtkMRMLVolumeNode) -> np.ndarray:
    """(4, 4) from a voxel index (i, j, k, 1) to LPS mm of the world, through all parent transforms.

    Raises:
        GeometryError: a parent transform is not linear.
    """
    return to_lps(parent_to_world(volume) @ ijk_to_ras(volume))


def affine_below(node: vtkMRMLTransformableNode, affine: np.ndarray) -> np.ndarray:
    """The affine to RAS mm that lands at the same place of the world below the parent transforms of a node.

    Args:
        node: whose parent transforms are undone.
        affine: (4, 4) to LPS mm of the world.

    Raises:
        GeometryError: a parent transform is not linear.
    """
    return np.linalg.solve(parent_to_world(node), to_ras(affine))


def affine_in(node: vtkMRMLTransformableNode, volume: vtkMRMLVolumeNode) -> np.ndarray:
    """(4, 4) from a voxel index (i, j, k, 1) of a volume to RAS mm below the parent transforms of another node.

    Raises:
        GeometryError: a parent transform is not linear.
    """
    own = ijk_to_ras(volume)
    # Under one transform it cancels out: exactly.
    if node.GetTransformNodeID() == volume.GetTransformNodeID():
        return own
    return np.linalg.solve(parent_to_world(node), parent_to_world(volume) @ own)
