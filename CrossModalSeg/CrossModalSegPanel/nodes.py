"""Nodes of the scene that the panel has for itself."""

import slicer


def singleton(kind: str, tag: str):
    """The only node of a class with a tag, made where there is none; it stays when the scene is closed."""
    node = slicer.mrmlScene.GetSingletonNode(tag, kind)
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetSingletonTag(tag)
        node = slicer.mrmlScene.AddNode(node)
    return node
