"""Slicer's Python classes that a module is made of, small and new: base classes, parameters, translation."""

from __future__ import annotations

import enum
import sys
import types
import typing
import unittest
from dataclasses import dataclass
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


@dataclass
class WithinRange:
    """The annotation of numbers."""

    minimum: float
    maximum: float


def parameterNodeWrapper(kind: type) -> type:
    """Attributes are parameters and node references of a MRML node."""
    types_ = dict(kind.__annotations__)
    for name, type_ in types_.items():
        if typing.get_origin(type_) is typing.Union and type(None) not in typing.get_args(type_):
            raise TypeError(f"Slicer cannot write None, which '{name}' is at first: its types do not name it.")
    members = {name: _parameter(name, type_, getattr(kind, name, None)) for name, type_ in types_.items()}
    return type(kind.__name__, (_Wrapper,), {**members, "types": types_})


def _plain(kind: type) -> type:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _node_types(kind: type) -> list[type]:
    """The classes of nodes that a parameter holds; none for others."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)
    return [each for each in kinds if hasattr(each, "GetClassName")]


# VTK calls observers also after Python has cleared them, as it does with those that nothing but their node holds.
_observers: list = []


class _Wrapper:
    types: dict[str, type]

    def __init__(self, node) -> None:
        self.parameterNode = node
        self._guis: dict[int, list[tuple]] = {}
        self._next_tag = 0
        self._is_showing = False

    def connectGui(self, panel) -> None:
        """Slicer's gives no tag, so that `disconnectGui` is without effect."""
        widgets = panel.findChildren(QtWidgets.QWidget)
        named = ((QtCore.QObject.property(each, "SlicerParameterName"), each) for each in widgets)
        self.connectParametersToGui({name: each for name, each in named if name})

    def connectParametersToGui(self, mapping: dict) -> int:
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        connectors = {name: _connector(widget, self.types[name]) for name, widget in mapping.items()}
        self._guis[tag] = [self._connect(name, *connector) for name, connector in connectors.items()]
        _observers.append(lambda *_: self._show())
        self.parameterNode.AddObserver("ModifiedEvent", _observers[-1])  # stays for good, as in Slicer
        self._show()
        return tag

    def disconnectGui(self, tag: int | None) -> None:
        for _, connection, _ in self._guis.pop(tag, []):
            # The signal's own `disconnect` loses a reference to True, of which Python 3.11 has a limited number.
            QtCore.QObject.disconnect(connection)

    def _connect(self, name: str, signal, read, write) -> tuple:
        connection = signal.connect(lambda *_: self._is_showing or setattr(self, name, read()))
        return name, connection, write

    def _show(self) -> None:
        if self._is_showing:
            return
        self._is_showing = True
        try:
            for connections in self._guis.values():
                for name, _, write in connections:
                    write(getattr(self, name))
        finally:
            self._is_showing = False


def _connector(widget, kind: type) -> tuple:
    """A signal of a change, a reader and a writer, for the pairs that Slicer has connectors for."""
    plain, nodes = _plain(kind), _node_types(kind)
    if nodes and isinstance(widget, slicer.qMRMLNodeComboBox):
        widget.nodeTypes = [each.__name__ for each in nodes]
        return widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
    if isinstance(widget, QtWidgets.QLineEdit) and plain is str:
        return widget.textChanged, lambda: widget.text, widget.setText  # puts the cursor to the end, as in Slicer
    if isinstance(widget, QtWidgets.QCheckBox) and plain is bool:
        return widget.stateChanged, lambda: widget.checked, widget.setChecked
    if isinstance(widget, QtWidgets.QSpinBox) and plain is int:
        limits = typing.get_args(kind)[1]
        widget.setRange(limits.minimum, limits.maximum)
        return widget.valueChanged, lambda: widget.value, widget.setValue
    if type(widget).__name__ == "QComboBox" and isinstance(plain, type) and issubclass(plain, enum.Enum):
        members = list(plain)
        widget.clear()
        widget.addItems([member.label() for member in members])
        return (
            widget.currentIndexChanged,
            lambda: members[widget.currentIndex],
            lambda value: widget.setCurrentIndex(members.index(value)),
        )
    raise RuntimeError(f"Slicer cannot bind {type(widget).__name__} to {kind}.")


def _parameter(name: str, kind: type, default) -> property:
    plain = _plain(kind)
    if typing.get_origin(plain) is list:
        return _node_list(name)
    if _node_types(plain):
        return property(
            lambda self: self.parameterNode.GetNodeReference(name),
            lambda self, node: _refer(self.parameterNode, name, node),
        )
    texts = {
        str: (str, str),
        int: (str, int),
        bool: (str, lambda text: text == "True"),
    }
    if issubclass(plain, enum.Enum):
        write, read = (lambda value: value.name), plain.__getitem__
    elif plain in texts:
        write, read = texts[plain]
    else:
        raise TypeError(f"This stand-in knows no parameters of {kind}.")

    def get(self):
        text = self.parameterNode.GetParameter(name)
        return read(text) if text else (default if default is not None else plain())

    return property(get, lambda self, value: self.parameterNode.SetParameter(name, write(value)))


def _node_list(name: str) -> property:
    def get(self) -> list:
        node = self.parameterNode
        return [node.GetNthNodeReference(name, index) for index in range(node.GetNumberOfNodeReferences(name))]

    def set_(self, nodes: list) -> None:
        if get(self) == nodes:
            return
        self.parameterNode.RemoveNodeReferenceIDs(name)
        for each in nodes:
            self.parameterNode.AddNodeReferenceID(name, each.GetID())
        self.parameterNode.Modified()

    return property(get, set_)


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
        "parameterNodeWrapper": (parameterNodeWrapper, WithinRange),
    }.items():
        module = types.ModuleType(f"slicer.{name}")
        for member in members:
            setattr(module, member.__name__, member)
        sys.modules[module.__name__] = module
    translation = types.ModuleType("slicer.i18n")
    translation.tr = lambda text: text
    sys.modules["slicer.i18n"] = translation
