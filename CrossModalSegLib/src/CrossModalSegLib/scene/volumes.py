"""Volume nodes to the library's volumes, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import slicer
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.volume import Volume

from .change import Change
from .geometry import affine_below, to_vtk, world_affine
from .hierarchy import place_beside
from .images import filled, is_empty, voxels
from .nodes import nodes_of, require_present, storable, told

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLVolumeNode

# From what was computed to the volume it was computed for; `alignment.apply_transform` moves both.
SOURCE_ROLE = "CrossModalSeg.Source"


def read_volume(node: vtkMRMLVolumeNode) -> Volume:
    """Copy an image out of the scene.

    Args:
        node: a scalar volume with one value per voxel.

    Returns:
        (k, j, i) in the node's own number type, with its place in the world: all parent transforms are applied.

    Raises:
        InputError: the node is no volume, is empty, holds colours or vectors, or values that are not finite.
        GeometryError: a parent transform is not linear, or the node's own matrix cannot be used.
    """
    volume = lend_volume(node)()
    return volume.with_array(volume.array.copy())


def lend_volume(node: vtkMRMLVolumeNode) -> Callable[[], Volume]:
    """Lend an image to another thread: for what is on its way to the worker. Takes no time, however large it is.

    Args:
        node: a scalar volume with one value per voxel.

    Returns:
        What gives the volume, in any thread, and takes its time to check the values: an InputError tells of those that
        are not finite. The voxels are the node's own, not to be written to: they stay in memory when the node goes, but
        change with it. `snapshot.require_same_voxels` tells whether they did.

    Raises:
        InputError: the node is no volume, is empty, or holds colours or vectors.
        GeometryError: a parent transform is not linear, or the node's own matrix cannot be used.
    """
    grid, name = read_grid(node), node.GetName()
    components = node.GetImageData().GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            f"'{name}' holds {components} values per voxel (colours or vectors); a volume with one value per "
            "voxel is needed. Extract one component (module Vector to Scalar Volume)."
        )
    array = voxels(node.GetImageData())
    array.flags.writeable = False

    def lent() -> Volume:
        _require_finite(array, name)
        return grid.with_array(array)

    return lent


def read_grid(node: vtkMRMLVolumeNode) -> Volume:
    """Where the voxels of a volume node lie in the world, without copying them: all values are 0.

    Raises:
        InputError: the node is no volume, or is empty.
        GeometryError: a parent transform is not linear, or the node's own matrix cannot be used.
    """
    if not isinstance(node, slicer.vtkMRMLVolumeNode):
        raise InputError(f"A volume of the scene was expected, got {told(node)}. Choose a volume.")
    if is_empty(node.GetImageData()):
        raise InputError(f"'{node.GetName()}' holds no voxels. Load it again, or choose another volume.")
    shape = node.GetImageData().GetDimensions()[::-1]
    return Volume(np.broadcast_to(np.uint8(0), shape), world_affine(node))


def add_volume(scene: vtkMRMLScene, volume: Volume, name: str) -> vtkMRMLScalarVolumeNode:
    """Add an image to the scene, under no transform, with a display by its own range of values."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", storable(name))
    _give(node, to_vtk(affine_below(node, volume.affine)), filled(vtkImageData(), volume.array))
    node.CreateDefaultDisplayNodes()
    return node


def write_volume(
    scene: vtkMRMLScene,
    volume: Volume,
    name: str,
    under: vtkMRMLVolumeNode,
    change: Change | None = None,
) -> vtkMRMLScalarVolumeNode:
    """Add a scalar volume to the scene, such as a probability or the uncertainty.

    One of the same name that was written for the same volume before gets the new voxels.

    Args:
        scene: where to.
        volume: with its place in the world.
        name: of the new node.
        under: a new node gets the same parent transform and the same place in the subject hierarchy.
        change: takes note, for undo.

    Raises:
        GeometryError: a parent transform is not linear.
        InputError: `under` is not in the scene any more.
    """
    require_present(scene, under)
    name = storable(name)
    image = filled(vtkImageData(), volume.array)
    with Change(scene, part_of=change) as step:
        node = _written_before(scene, name, under)
        if node is None:
            node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
            step.created(node)
            node.SetAndObserveTransformNodeID(under.GetTransformNodeID())
            node.SetNodeReferenceID(SOURCE_ROLE, under.GetID())
            place_beside(scene, node, under)
        else:
            former = vtkMatrix4x4(), node.GetImageData()
            node.GetIJKToRASMatrix(former[0])
            step.changed(node, lambda: _give(node, *former))
        _give(node, to_vtk(affine_below(node, volume.affine)), image)
        node.CreateDefaultDisplayNodes()
    return node


def _require_finite(array: np.ndarray, name: str) -> None:
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        count = int(array.size - np.isfinite(array).sum())
        raise InputError(
            f"'{name}' holds {count} voxels that are not finite numbers (NaN or infinite). Replace them first, for "
            "example by a threshold in the module Simple Filters."
        )


def _written_before(scene: vtkMRMLScene, name: str, under: vtkMRMLVolumeNode) -> vtkMRMLScalarVolumeNode | None:
    for node in nodes_of(scene, "vtkMRMLScalarVolumeNode"):
        if node.GetName() == name and node.GetNodeReference(SOURCE_ROLE) is under:
            return node
    return None


def _give(node: vtkMRMLScalarVolumeNode, ijk_to_ras: vtkMatrix4x4, image: vtkImageData) -> None:
    node.SetIJKToRASMatrix(ijk_to_ras)
    node.SetAndObserveImageData(image)
