"""A curve that grows while a fit runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import slicer
from vtkmodules.vtkCommonCore import vtkDoubleArray
from vtkmodules.vtkCommonDataModel import vtkTable

from .hierarchy import remove_with_item

if TYPE_CHECKING:
    from slicer import vtkMRMLPlotChartNode, vtkMRMLPlotSeriesNode, vtkMRMLScene, vtkMRMLTableNode

_COLORS = ((0.12, 0.47, 0.71), (1.0, 0.5, 0.05), (0.17, 0.63, 0.17), (0.84, 0.15, 0.16), (0.58, 0.4, 0.74))


class Curve:
    """One or more quantities over another one: a table, a series for each quantity, and a chart that shows them.

    Attributes:
        table: the numbers.
        chart: to be shown in a plot view.
    """

    def __init__(self, scene: vtkMRMLScene, name: str = "Loss", x_title: str = "seconds") -> None:
        """Add the nodes, without a point yet."""
        self._scene, self._name, self._x_title = scene, name, x_title
        self._series: dict[str, vtkMRMLPlotSeriesNode] = {}
        self._shown: set[str] = set()
        self.table: vtkMRMLTableNode = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{name} table")
        self.chart: vtkMRMLPlotChartNode = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", f"{name} chart")
        self.chart.SetTitle(name)
        self.chart.SetXAxisTitle(x_title)
        self.chart.SetYAxisTitle(name)
        self.clear()

    @property
    def is_present(self) -> bool:
        """Whether the nodes are still in the scene."""
        return all(self._scene.IsNodePresent(node) for node in (self.table, self.chart))

    def remove(self) -> None:
        """Take its nodes out of the scene."""
        for node in (*self._series.values(), self.chart, self.table):
            remove_with_item(self._scene, node)

    def clear(self) -> None:
        """Begin anew, in the same nodes."""
        table = vtkTable()
        table.AddColumn(_column(self._x_title, 0))
        for name in self._series:
            table.AddColumn(_column(name, 0))
        self._shown.clear()
        self.chart.RemoveAllPlotSeriesNodeIDs()
        self.table.SetAndObserveTable(table)

    def append(self, x: float, values: Mapping[str, float]) -> None:
        """Add a point to each quantity; takes the same time however long the curve is.

        Without effect where the person deleted the nodes.

        Args:
            x: not smaller than that of the point before.
            values: by quantity; one that is missing has no point here.
        """
        if not self.is_present or not values:
            return
        table = self.table.GetTable()
        for name in values:
            if table.GetColumnByName(name) is None:
                table.AddColumn(_column(name, table.GetNumberOfRows()))
        table.GetColumnByName(self._x_title).InsertNextValue(x)
        for index in range(1, table.GetNumberOfColumns()):
            column = table.GetColumn(index)
            column.InsertNextValue(values.get(column.GetName(), math.nan))
        table.Modified()
        if table.GetNumberOfRows() > 1:  # VTK logs an error for a line of one point
            self._show_series([table.GetColumnName(index) for index in range(1, table.GetNumberOfColumns())])

    def _show_series(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._series:
                self._series[name] = self._new_series(name)
            if name not in self._shown and self._scene.IsNodePresent(self._series[name]):
                self.chart.AddAndObservePlotSeriesNodeID(self._series[name].GetID())
            self._shown.add(name)

    def _new_series(self, name: str) -> vtkMRMLPlotSeriesNode:
        series = self._scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
        series.SetAndObserveTableNodeID(self.table.GetID())
        series.SetXColumnName(self._x_title)
        series.SetYColumnName(name)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        series.SetColor(*_COLORS[len(self._series) % len(_COLORS)])
        return series


def _column(name: str, rows: int) -> vtkDoubleArray:
    column = vtkDoubleArray()
    column.SetName(name)
    for _ in range(rows):
        column.InsertNextValue(math.nan)
    return column
