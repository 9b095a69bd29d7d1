"""Measurements as a table node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vtkmodules.vtkCommonCore import vtkDoubleArray, vtkStringArray
from vtkmodules.vtkCommonDataModel import vtkTable

from .change import Change
from .nodes import require_present

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLTableNode


@dataclass(frozen=True)
class Measurement:
    """What is known of one structure in one image.

    Attributes:
        image: name of the image.
        structure: name of the class.
        milliliters: its volume; None when unknown.
        measures: others by column title, such as {"DSC": 0.9}; None where one does not exist.
    """

    image: str
    structure: str
    milliliters: float | None = None
    measures: Mapping[str, float | None] = field(default_factory=dict)


def volumes_measured(image: str, milliliters: Mapping[str, float]) -> list[Measurement]:
    """One row for each class of a result."""
    return [Measurement(image, structure, value) for structure, value in milliliters.items()]


def agreement_measured(image: str, report: Mapping[str, Any]) -> list[Measurement]:
    """One row for each class of a report of `metrics.MetricsReport.to_json`."""
    keys = {"DSC": "dsc", "ASD [mm]": "asd_mm"}
    keys |= {f"NSD at {tolerance:g} mm": f"nsd@{tolerance:g}mm" for tolerance in report["tolerances_mm"]}
    return [
        Measurement(image, label["name"], label["volume_ml"], {title: label[key] for title, key in keys.items()})
        for label in report["labels"]
    ]


def write_measurements(
    scene: vtkMRMLScene,
    rows: Sequence[Measurement],
    name: str = "Measurements",
    into: vtkMRMLTableNode | None = None,
    change: Change | None = None,
) -> vtkMRMLTableNode:
    """Write measurements as a table: image, structure, millilitres, and a column for each other measure.

    Args:
        scene: where to.
        rows: in their order.
        name: of a new table.
        into: a table whose content is replaced.
        change: takes note, for undo.

    Raises:
        InputError: `into` is not in the scene any more.
    """
    require_present(scene, into)
    table = vtkTable()
    _add_texts(table, "Image", [row.image for row in rows])
    _add_texts(table, "Structure", [row.structure for row in rows])
    _add_numbers(table, "Volume [ml]", [row.milliliters for row in rows])
    for title in dict.fromkeys(title for row in rows for title in row.measures):
        _add_numbers(table, title, [row.measures.get(title) for row in rows])
    with Change(scene, part_of=change) as step:
        node = into
        if node is None:
            node = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
            step.created(node)
        else:
            before = node.GetTable()
            step.changed(node, lambda: node.SetAndObserveTable(before))
        node.SetAndObserveTable(table)
        node.SetUseColumnTitleAsColumnHeader(True)
        node.SetLocked(True)
    return node


def _add_texts(table: vtkTable, title: str, values: Sequence[str]) -> None:
    column = vtkStringArray()
    column.SetName(title)
    for value in values:
        column.InsertNextValue(value)
    table.AddColumn(column)


def _add_numbers(table: vtkTable, title: str, values: Sequence[float | None]) -> None:
    column = vtkDoubleArray()
    column.SetName(title)
    for value in values:
        column.InsertNextValue(math.nan if value is None else value)
    table.AddColumn(column)
