"""The subject hierarchy: results lie beside what they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import slicer

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScene


def place_beside(scene: vtkMRMLScene, node: vtkMRMLNode, neighbour: vtkMRMLNode) -> None:
    """Put a node into the folder, study or patient of another one."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is None:
        return
    beside = hierarchy.GetItemByDataNode(neighbour)
    # Without the application nobody gives nodes an item.
    parent = hierarchy.GetItemParent(beside) if beside else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def remove_with_item(scene: vtkMRMLScene, node: vtkMRMLNode) -> None:
    """Remove a node with its display nodes and its item; without effect on one that is gone already."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if scene.IsNodePresent(node):
        displays = [node.GetNthDisplayNode(index) for index in range(_display_count(node))]
        for each in (*displays, node):
            scene.RemoveNode(each)
    # Its children move up rather than go with it; without the application nobody removes the item.
    if item and hierarchy.GetItemDataNode(item) is node:
        hierarchy.RemoveItem(item, False, False)


def _display_count(node: vtkMRMLNode) -> int:
    return node.GetNumberOfDisplayNodes() if isinstance(node, slicer.vtkMRMLDisplayableNode) else 0
