"""The MRML widgets that the panel uses."""

from __future__ import annotations

import qt
import slicer
from PySide6 import QtCore, QtGui, QtWidgets


class qMRMLWidget(qt.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene) -> None:
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(qt.QComboBox):
    """Lists the nodes of some classes, which the parameter node's wrapper sets, and of those derived from them.

    The list is made anew at the end of an import, and only knows the nodes that came by it from then on.
    """

    currentNodeChanged = QtCore.Signal(object)
    noneEnabled = QtCore.Property(bool, lambda self: True, lambda self, value: None)
    addEnabled = QtCore.Property(bool, lambda self: False, lambda self, value: None)
    removeEnabled = QtCore.Property(bool, lambda self: False, lambda self, value: None)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.nodeTypes: list[str] = []
        self._has_derived = True
        self._scene = None
        self.currentIndexChanged.connect(lambda index: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene) -> None:
        self._scene = scene
        for event, follow in (
            (scene.NodeAddedEvent, self.refresh),
            (scene.NodeRemovedEvent, self.refresh),
            (scene.EndCloseEvent, self.refresh),
            (scene.EndImportEvent, self._list_anew),
        ):
            tag = scene.AddObserver(event, lambda *_, follow=follow: follow())
            self.destroyed.connect(lambda *_, tag=tag: scene.RemoveObserver(tag))
        self.refresh()

    def refresh(self) -> None:
        if self._scene.IsImporting():
            return
        self._list()

    def _list_anew(self) -> None:
        self._list()
        self.currentNodeChanged.emit(self.currentNode())

    def _list(self) -> None:
        before = QtWidgets.QComboBox.currentData(self)
        self.blockSignals(True)
        self.clear()
        self.addItem("None", "")
        for node in self.nodes():
            self.addItem(node.GetName(), node.GetID())
        self.setCurrentIndex(max(0, self.findData(before)))
        self.blockSignals(False)
        if QtWidgets.QComboBox.currentData(self) != before:
            self.currentNodeChanged.emit(self.currentNode())

    def nodes(self) -> list:
        found = [
            self._scene.GetNthNodeByClass(index, kind)
            for kind in self.nodeTypes
            for index in range(self._scene.GetNumberOfNodesByClass(kind))
        ]
        return [node for node in found if self._has_derived or node.GetClassName() in self.nodeTypes]

    def _set_has_derived(self, value: bool) -> None:
        self._has_derived = value

    showChildNodeTypes = QtCore.Property(bool, lambda self: self._has_derived, _set_has_derived)

    def currentNode(self):
        identity = QtWidgets.QComboBox.currentData(self)
        return self._scene.GetNodeByID(identity) if identity else None

    def setCurrentNode(self, node) -> None:
        self.refresh()
        self.setCurrentIndex(max(0, self.findData(node.GetID() if node is not None else "")))


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """A list with boxes to check."""

    checkedNodesChanged = QtCore.Signal()

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._checked: list[str] = []

    def checkedNodes(self) -> list:
        found = [self._scene.GetNodeByID(identity) for identity in self._checked]
        return [node for node in found if node is not None]

    def setCheckState(self, node, state) -> None:
        if node not in self.nodes():
            return
        others = [identity for identity in self._checked if identity != node.GetID()]
        self._checked = [*others, node.GetID()] if state == QtCore.Qt.Checked else others
        self.checkedNodesChanged.emit()


class qMRMLTableView(qt.QTableWidget):
    """Shows a table node; with a scene but no view node of it, it is emptied by each batch of changes to the scene."""

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._node = None

    def setMRMLScene(self, scene) -> None:
        tag = scene.AddObserver(scene.EndBatchProcessEvent, lambda *_: self.setMRMLTableNode(None))
        self.destroyed.connect(lambda *_: scene.RemoveObserver(tag))

    def mrmlTableNode(self):
        return self._node

    def setMRMLTableNode(self, node) -> None:
        self._node = node
        table = slicer.vtkMRMLTableNode().GetTable() if node is None else node.GetTable()
        columns = [] if table is None else [table.GetColumn(index) for index in range(table.GetNumberOfColumns())]
        self.setColumnCount(len(columns))
        self.setRowCount(0 if not columns else table.GetNumberOfRows())
        self.setHorizontalHeaderLabels([column.GetName() for column in columns])
        for index, column in enumerate(columns):
            for row in range(table.GetNumberOfRows()):
                value = column.GetValue(row)
                text = value if isinstance(value, str) else f"{value:.3g}"
                self.setItem(row, index, QtWidgets.QTableWidgetItem(text))


class qMRMLPlotWidget(qt.QFrame):
    """A frame around its view."""

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._view = qMRMLPlotView(self)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._view)

    def setMRMLScene(self, scene) -> None:
        pass

    def setMRMLPlotViewNode(self, node) -> None:
        self._view.node = node

    def plotView(self):
        return self._view


class qMRMLPlotView(qt.QFrame):
    """Draws the series of a chart as lines; its axes show what was there when it was fitted to it for the last time."""

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.node = None
        self._range = [[0, 1], [0, 1]]

    def points(self) -> list[tuple[float, float]]:
        """Of the first series."""
        chart = None if self.node is None else self.node.GetPlotChartNode()
        if chart is None or not chart.GetNumberOfPlotSeriesNodes():
            return []
        series = chart.GetNthPlotSeriesNode(0)
        table = series.GetTableNode().GetTable()
        x, y = (table.GetColumnByName(each) for each in (series.GetXColumnName(), series.GetYColumnName()))
        return [(x.GetValue(row), y.GetValue(row)) for row in range(table.GetNumberOfRows())]

    def visible(self) -> list[tuple[float, float]]:
        """Those points that lie within the axes."""
        xs, ys = self._range
        return [(x, y) for x, y in self.points() if xs[0] <= x <= xs[-1] and ys[0] <= y <= ys[-1]]

    def fitToContent(self) -> None:
        points = self.points()
        if points:
            self._range = [sorted(point[axis] for point in points) for axis in (0, 1)]
        self.update()

    def paintEvent(self, event) -> None:
        painter = QtGui.QPainter(self)
        width, height = self.width - 16, self.height - 16
        painter.drawRect(4, 4, width + 7, height + 7)
        (left, *_, right), (low, *_, high) = self._range
        points = self.visible()
        if len(points) < 2 or left == right or low == high:
            return
        line = [
            QtCore.QPointF(8 + width * (x - left) / (right - left), 8 + height * (high - y) / (high - low))
            for x, y in points
        ]
        painter.drawPolyline(line)


class qMRMLSegmentEditorWidget(qt.QFrame):
    """Remembers what it was told; nothing can be drawn with it."""

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.told: dict[str, object] = {}
        self.errors: list[str] = []  # Slicer logs them
        layout = QtWidgets.QVBoxLayout(self)
        layout.addWidget(QtWidgets.QLabel("(Segment Editor: Paint, Draw, Erase, Undo, Redo)"))

    def setSourceVolumeNode(self, node) -> None:
        if node is not None and self.told.get("setSegmentationNode") is None:
            self.errors.append("An image was set before a segmentation.")
        self.told["setSourceVolumeNode"] = node

    def _note(self, name: str):
        return lambda value=None: self.told.__setitem__(name, value)

    def __getattr__(self, name: str):
        if name.startswith("set"):
            return self._note(name)
        raise AttributeError(name)


def install() -> None:
    """Put them where Slicer has them."""
    for kind in (
        qMRMLWidget,
        qMRMLNodeComboBox,
        qMRMLCheckableNodeComboBox,
        qMRMLSegmentEditorWidget,
        qMRMLTableView,
        qMRMLPlotWidget,
    ):
        setattr(slicer, kind.__name__, kind)
