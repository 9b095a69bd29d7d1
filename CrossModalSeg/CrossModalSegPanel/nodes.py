"""Nodes of the scene that the panel has for itself."""

import slicer


def singleton(kind: str, tag: str, set_up=lambda _node: None):
    """The only node of a class with a tag, made where there is none; it stays when the scene is closed.

    Args:
        kind: its class.
        tag: of the singleton.
        set_up: gets the node, a new one before the scene has it.
    """
    node = slicer.mrmlScene.GetSingletonNode(tag, kind)
    if node is not None:
        set_up(node)
        return node
    node = slicer.mrmlScene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetSingletonTag(tag)
    set_up(node)
    return slicer.mrmlScene.AddNode(node)
