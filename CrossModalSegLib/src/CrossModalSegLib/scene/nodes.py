"""What nodes are to this library, and whether they are still there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import slicer

from CrossModalSegLib.errors import InputError

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScene, vtkMRMLSegmentationNode

_ROLE_ATTRIBUTE = "CrossModalSeg.Role"
SCRIBBLES = "scribbles"
RESULT = "result"
REGISTRATION = "registration"
MEASUREMENTS = "measurements"


def role(node: vtkMRMLNode) -> str | None:
    """What a node was made for; kept when the scene is saved."""
    return node.GetAttribute(_ROLE_ATTRIBUTE)


def set_role(node: vtkMRMLNode, value: str) -> None:
    """Say what a node is for."""
    node.SetAttribute(_ROLE_ATTRIBUTE, value)


def storable(name: str) -> str:
    """A name for a node without what 3D Slicer writes into scene files as it is, as a part of the name of its file.

    With an "&" there, the file could not be read again.
    """
    return name.replace("&", "+")


def require_present(scene: vtkMRMLScene, *nodes: vtkMRMLNode) -> None:
    """Check that nodes are in the scene.

    Raises:
        InputError: one is not, or not any more, or is no node.
    """
    for node in nodes:
        if not (node is None or isinstance(node, slicer.vtkMRMLNode)):
            raise InputError(f"A node of the scene was expected, got {told(node)}.")
        if node is not None and not scene.IsNodePresent(node):
            raise InputError(
                f"'{node.GetName()}' is not in the scene any more: it was deleted, or the scene was closed."
            )


def nodes_of(scene: vtkMRMLScene, kind: str) -> list[vtkMRMLNode]:
    """All nodes of a class or of one derived from it."""
    return [scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind))]


def told(node: object) -> str:
    """What somebody gave for a node, for errors."""
    if isinstance(node, slicer.vtkMRMLNode):
        return f"'{node.GetName()}'"
    if node is None:
        return "nothing"
    if isinstance(node, str):
        return f"the text '{node}'; `slicer.util.getNode` finds a node by its name"
    return f"a {type(node).__name__}"


def require_segmentation(node: object) -> vtkMRMLSegmentationNode:
    """The node, if it is a segmentation.

    Raises:
        InputError: it is not.
    """
    if isinstance(node, slicer.vtkMRMLSegmentationNode) and node.GetSegmentation() is not None:
        return node
    raise InputError(f"A segmentation of the scene was expected, got {told(node)}. Choose a segmentation.")


def drawn_on(node: vtkMRMLSegmentationNode) -> vtkMRMLNode | None:
    """The volume whose grid a segmentation has."""
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
