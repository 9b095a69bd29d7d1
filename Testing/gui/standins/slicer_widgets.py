"""The MRML widgets that the panel uses."""

from __future__ import annotations

import qt
import slicer
from PySide6 import QtCore, QtWidgets


class qMRMLWidget(qt.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene) -> None:
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(qt.QComboBox):
    """Lists the nodes of some classes; the parameter node's wrapper sets the classes."""

    currentNodeChanged = QtCore.Signal(object)
    noneEnabled = QtCore.Property(bool, lambda self: True, lambda self, value: None)
    addEnabled = QtCore.Property(bool, lambda self: False, lambda self, value: None)
    removeEnabled = QtCore.Property(bool, lambda self: False, lambda self, value: None)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.nodeTypes: list[str] = []
        self._scene = None
        self.currentIndexChanged.connect(lambda index: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene) -> None:
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent):
            tag = scene.AddObserver(event, lambda *_: self.refresh())
            self.destroyed.connect(lambda *_, tag=tag: scene.RemoveObserver(tag))
        self.refresh()

    def refresh(self) -> None:
        before = QtWidgets.QComboBox.currentData(self)
        self.blockSignals(True)
        self.clear()
        self.addItem("None", "")
        for kind in self.nodeTypes:
            for index in range(self._scene.GetNumberOfNodesByClass(kind)):
                node = self._scene.GetNthNodeByClass(index, kind)
                self.addItem(node.GetName(), node.GetID())
        self.setCurrentIndex(max(0, self.findData(before)))
        self.blockSignals(False)
        if QtWidgets.QComboBox.currentData(self) != before:
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self):
        identity = QtWidgets.QComboBox.currentData(self)
        return self._scene.GetNodeByID(identity) if identity else None

    def setCurrentNode(self, node) -> None:
        self.refresh()
        self.setCurrentIndex(self.findData(node.GetID() if node is not None else ""))


class qMRMLSegmentEditorWidget(qt.QFrame):
    """Remembers what it was told; nothing can be drawn with it."""

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.told: dict[str, object] = {}
        layout = QtWidgets.QVBoxLayout(self)
        layout.addWidget(QtWidgets.QLabel("(Segment Editor: Paint, Draw, Erase, Undo, Redo)"))

    def _note(self, name: str):
        return lambda value=None: self.told.__setitem__(name, value)

    def __getattr__(self, name: str):
        if name.startswith("set"):
            return self._note(name)
        raise AttributeError(name)


def install() -> None:
    """Put them where Slicer has them."""
    for kind in (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentEditorWidget):
        setattr(slicer, kind.__name__, kind)
