"""How two volumes of the scene lie to each other, and moving one onto the other by a transform that can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.errors import GeometryError
from CrossModalSegLib.placement import Placement, placement

from .change import Change
from .geometry import from_vtk, movement_to_ras, parent_to_world, to_vtk, transform_to_world
from .hierarchy import place_beside, remove_with_item
from .nodes import REGISTRATION, drawn_on, nodes_of, require_present, role, set_role, storable
from .volumes import SOURCE_ROLE, read_grid

if TYPE_CHECKING:
    from slicer import vtkMRMLLinearTransformNode, vtkMRMLScene, vtkMRMLTransformableNode, vtkMRMLVolumeNode

_LEAST_VOLUME_CHANGE = 1e-6


def alignment(a: vtkMRMLVolumeNode, b: vtkMRMLVolumeNode) -> Placement:
    """How two volumes lie to each other, parent transforms applied: a state, and their overlap from 0 to 1.

    Raises:
        InputError: one of them is no volume, or is empty.
        GeometryError: a parent transform is not linear.
    """
    return placement(read_grid(a), read_grid(b))


def apply_transform(
    scene: vtkMRMLScene,
    moving: vtkMRMLVolumeNode,
    lps_matrix: np.ndarray,
    name: str = "Registration",
    change: Change | None = None,
) -> vtkMRMLLinearTransformNode:
    """Move a volume in the world by a linear transform node right above it; transforms above that stay.

    What was drawn on the volume or computed for it moves along, if it lies under the same transform. A transform that
    this function made before, and that holds nothing else, is changed rather than stacked. The person may adjust the
    node by hand; `remove_transform` takes it away.

    Args:
        scene: where to.
        moving: the volume.
        lps_matrix: (4, 4), takes points of the moving volume, LPS mm of the world, to where they shall lie.
        name: of a new transform node.
        change: takes note, for undo.

    Raises:
        GeometryError: the matrix is not usable, or a parent transform is not linear.
        InputError: the volume is not in the scene any more, or is no volume.
    """
    read_grid(moving)
    require_present(scene, moving)
    movement = movement_to_ras(_checked(lps_matrix))
    followers = [moving, *_companions(scene, moving)]
    with Change(scene, part_of=change) as step:
        above = registration_of(moving)
        if above is not None and set(nodes_under(scene, above)) <= set(followers):
            _move_on(above, movement, step)
            return above
        to_world = parent_to_world(moving)
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", storable(name))
        step.created(node, lambda: remove_transform(scene, node))
        set_role(node, REGISTRATION)
        place_beside(scene, node, moving)
        node.SetAndObserveTransformNodeID(moving.GetTransformNodeID())
        node.SetMatrixTransformToParent(to_vtk(np.linalg.solve(to_world, movement @ to_world)))
        for follower in followers:
            _put_under(follower, node, step)
    return node


def remove_transform(scene: vtkMRMLScene, transform: vtkMRMLLinearTransformNode) -> None:
    """Take a transform away; all that lies under it goes back under what is above it."""
    for node in nodes_under(scene, transform):
        node.SetAndObserveTransformNodeID(transform.GetTransformNodeID())
    remove_with_item(scene, transform)


def registration_of(volume: vtkMRMLVolumeNode) -> vtkMRMLLinearTransformNode | None:
    """The transform that `apply_transform` put above a volume, if it is there."""
    above = volume.GetParentTransformNode()
    return above if above is not None and role(above) == REGISTRATION else None


def nodes_under(scene: vtkMRMLScene, transform: vtkMRMLTransformableNode) -> list[vtkMRMLTransformableNode]:
    """All that lies right under a transform."""
    found = nodes_of(scene, "vtkMRMLTransformableNode")
    return [node for node in found if node.GetParentTransformNode() is transform]


def _checked(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, dtype=np.float64)
    is_usable = matrix.shape == (4, 4) and np.isfinite(matrix).all() and np.array_equal(matrix[3], (0, 0, 0, 1))
    if not is_usable or abs(np.linalg.det(matrix[:3, :3])) < _LEAST_VOLUME_CHANGE:
        raise GeometryError(
            "A movement should be a 4 by 4 matrix of finite numbers with the last row (0, 0, 0, 1) that can be undone, "
            f"got {matrix.tolist()}."
        )
    return matrix


def _companions(scene: vtkMRMLScene, volume: vtkMRMLVolumeNode) -> Iterator[vtkMRMLTransformableNode]:
    """What was drawn on a volume or computed for it and lies where it lies."""
    for node in nodes_of(scene, "vtkMRMLSegmentationNode"):
        if drawn_on(node) is volume and node.GetTransformNodeID() == volume.GetTransformNodeID():
            yield node
    for node in nodes_of(scene, "vtkMRMLScalarVolumeNode"):
        if node.GetNodeReference(SOURCE_ROLE) is volume and node.GetTransformNodeID() == volume.GetTransformNodeID():
            yield node


def _put_under(node: vtkMRMLTransformableNode, transform: vtkMRMLTransformableNode, change: Change) -> None:
    before = node.GetTransformNodeID()

    def restore() -> None:
        if node.GetParentTransformNode() is transform:
            node.SetAndObserveTransformNodeID(before)

    node.SetAndObserveTransformNodeID(transform.GetID())
    change.changed(node, restore)


def _move_on(transform: vtkMRMLLinearTransformNode, movement: np.ndarray, change: Change) -> None:
    """Let what a transform does be followed by a movement in the world."""
    above = transform_to_world(transform.GetParentTransformNode(), transform)
    before = _matrix(transform)
    transform.SetMatrixTransformToParent(to_vtk(np.linalg.solve(above, movement @ above) @ before))
    change.changed(transform, lambda: transform.SetMatrixTransformToParent(to_vtk(before)))


def _matrix(transform: vtkMRMLLinearTransformNode) -> np.ndarray:
    matrix = to_vtk(np.eye(4))
    transform.GetMatrixTransformToParent(matrix)
    return from_vtk(matrix)
