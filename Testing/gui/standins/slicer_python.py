"""Slicer's Python classes that a module is made of, small and new: base classes, parameters, translation."""

from __future__ import annotations

import enum
import sys
import types
import unittest
from pathlib import Path

import qt
import slicer
from PySide6 import QtCore, QtWidgets


class ScriptedLoadableModule:
    def __init__(self, parent) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None) -> None:
        self.parent = parent or qt.QWidget()
        self.layout = QtWidgets.QVBoxLayout(self.parent)

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        return str(Path(sys.modules[type(self).__module__].__file__).parent / "Resources" / name)


class ScriptedLoadableModuleLogic:
    def getParameterNode(self):
        tag = type(self).__name__
        node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(tag)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    pass


def parameterNodeWrapper(kind: type) -> type:
    """Attributes are text parameters and node references of a MRML node."""
    members = {name: _parameter(name, type_) for name, type_ in kind.__annotations__.items()}
    return type(kind.__name__, (_Wrapper,), {**members, "types": dict(kind.__annotations__)})


class _Wrapper:
    types: dict[str, type]

    def __init__(self, node) -> None:
        self.parameterNode = node
        self._connections: list[tuple] = []

    def connectGui(self, panel) -> int:
        for widget in panel.findChildren(QtWidgets.QWidget):
            name = QtCore.QObject.property(widget, "SlicerParameterName")
            if name:
                self._connect(widget, name)
        self._tag = self.parameterNode.AddObserver("ModifiedEvent", lambda *_: self._show())
        self._show()
        return self._tag

    def disconnectGui(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)
        for _, _, signal, slot in self._connections:
            signal.disconnect(slot)
        self._connections = []

    def _connect(self, widget, name: str) -> None:
        kind = self.types[name]
        if isinstance(widget, slicer.qMRMLNodeComboBox):
            widget.nodeTypes = [kind.__name__]
            signal, read = widget.currentNodeChanged, widget.currentNode
        elif isinstance(widget, QtWidgets.QLineEdit) and kind is str:
            signal, read = widget.textChanged, lambda: widget.text
        else:
            raise RuntimeError(f"Slicer cannot bind {type(widget).__name__} to {kind}.")
        slot = lambda *_: setattr(self, name, read())  # noqa: E731 - disconnected by this very object
        signal.connect(slot)
        self._connections.append((widget, name, signal, slot))

    def _show(self) -> None:
        for widget, name, _, _ in self._connections:
            if isinstance(widget, slicer.qMRMLNodeComboBox):
                widget.setCurrentNode(getattr(self, name))
            elif widget.text != getattr(self, name):
                widget.setText(getattr(self, name))


def _parameter(name: str, kind: type) -> property:
    if kind is str:
        return property(
            lambda self: self.parameterNode.GetParameter(name),
            lambda self, value: self.parameterNode.SetParameter(name, value),
        )
    if issubclass(kind, enum.Enum) or not hasattr(kind, "GetClassName"):
        raise TypeError(f"This stand-in knows no parameters of {kind}.")
    return property(
        lambda self: self.parameterNode.GetNodeReference(name),
        lambda self, node: _refer(self.parameterNode, name, node),
    )


def _refer(owner, name: str, node) -> None:
    if owner.GetNodeReference(name) is not node:
        owner.SetNodeReferenceID(name, node.GetID() if node is not None else None)
        owner.Modified()


def install() -> None:
    """Make them importable as Slicer has them."""
    for name, members in {
        "ScriptedLoadableModule": (
            ScriptedLoadableModule,
            ScriptedLoadableModuleWidget,
            ScriptedLoadableModuleLogic,
            ScriptedLoadableModuleTest,
        ),
        "parameterNodeWrapper": (parameterNodeWrapper,),
    }.items():
        module = types.ModuleType(f"slicer.{name}")
        for member in members:
            setattr(module, member.__name__, member)
        sys.modules[module.__name__] = module
    translation = types.ModuleType("slicer.i18n")
    translation.tr = lambda text: text
    sys.modules["slicer.i18n"] = translation
