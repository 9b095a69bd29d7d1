from __future__ import annotations

import math

import pytest

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.scene.change import Change
from CrossModalSegLib.scene.plots import Curve
from CrossModalSegLib.scene.tables import Measurement, agreement_measured, volumes_measured, write_measurements

REPORT = {
    "tolerances_mm": [1.0, 2.5],
    "labels": [
        {"name": "liver", "dsc": 0.9, "asd_mm": 1.5, "nsd@1mm": 0.5, "nsd@2.5mm": 0.75, "volume_ml": 12.0},
        {"name": "spleen", "dsc": 0.0, "asd_mm": None, "nsd@1mm": 0.0, "nsd@2.5mm": 0.0, "volume_ml": 0.0},
    ],
}


def content(node) -> dict[str, list]:
    table = node.GetTable()
    columns = [table.GetColumn(index) for index in range(table.GetNumberOfColumns())]
    return {each.GetName(): [each.GetValue(row) for row in range(table.GetNumberOfRows())] for each in columns}


def test_volumes(scene):
    rows = [*volumes_measured("CT", {"liver": 1500.5, "spleen": 200.0}), *volumes_measured("MR", {"liver": 1499.0})]
    node = write_measurements(scene, rows)
    assert node.GetName() == "Measurements"
    assert content(node) == {
        "Image": ["CT", "CT", "MR"],
        "Structure": ["liver", "spleen", "liver"],
        "Volume [ml]": [1500.5, 200.0, 1499.0],
    }


def test_agreement_and_what_does_not_exist(scene):
    rows = [*agreement_measured("CT", REPORT), Measurement("MR", "liver", None)]
    found = content(write_measurements(scene, rows))
    assert list(found) == ["Image", "Structure", "Volume [ml]", "DSC", "ASD [mm]", "NSD at 1 mm", "NSD at 2.5 mm"]
    assert found["DSC"][:2] == [0.9, 0.0]
    assert found["NSD at 2.5 mm"][:2] == [0.75, 0.0]
    assert [math.isnan(value) for value in found["ASD [mm]"]] == [False, True, True]
    assert math.isnan(found["Volume [ml]"][2])


def test_measuring_again_and_undo(scene):
    change = Change(scene)
    node = write_measurements(scene, volumes_measured("CT", {"liver": 1.0}), change=change)
    again = Change(scene)
    assert write_measurements(scene, volumes_measured("CT", {"liver": 2.0}), into=node, change=again) is node
    assert content(node)["Volume [ml]"] == [2.0]
    again.undo()
    assert content(node)["Volume [ml]"] == [1.0]
    change.undo()
    assert not scene.IsNodePresent(node)
    with pytest.raises(InputError, match="not in the scene any more"):
        write_measurements(scene, [], into=node)


def test_a_curve_grows(scene):
    curve = Curve(scene, "Loss")
    assert curve.chart.GetNumberOfPlotSeriesNodes() == 0
    curve.append(0.5, {"loss": 2.0})
    assert curve.chart.GetNumberOfPlotSeriesNodes() == 0  # VTK cannot draw a line of one point
    curve.append(1.0, {"loss": 1.0, "crf": 0.25})
    curve.append(1.5, {"crf": 0.125})
    curve.append(2.0, {})
    found = content(curve.table)
    assert found["seconds"] == [0.5, 1.0, 1.5]
    assert found["loss"][:2] == [2.0, 1.0]
    assert math.isnan(found["loss"][2])
    assert math.isnan(found["crf"][0])
    assert found["crf"][1:] == [0.25, 0.125]
    series = [curve.chart.GetNthPlotSeriesNode(index) for index in range(2)]
    assert [each.GetYColumnName() for each in series] == ["loss", "crf"]
    assert {each.GetXColumnName() for each in series} == {"seconds"}
    assert {each.GetTableNode() for each in series} == {curve.table}
    assert series[0].GetColor() != series[1].GetColor()


def test_those_who_look_are_told_once_a_point(scene):
    curve = Curve(scene)
    curve.append(0.0, {"loss": 1.0})
    curve.append(0.5, {"loss": 0.75})
    told = []
    curve.table.AddObserver("ModifiedEvent", lambda *_: told.append(1))
    curve.append(1.0, {"loss": 0.5})
    assert len(told) == 1


def test_a_curve_begins_anew_in_the_same_nodes(scene):
    curve = Curve(scene)
    for seconds in (0.0, 1.0):
        curve.append(seconds, {"loss": 1.0})
    nodes = scene.GetNumberOfNodes()
    curve.clear()
    curve.append(3.0, {"loss": 0.5})
    assert curve.chart.GetNumberOfPlotSeriesNodes() == 0
    curve.append(4.0, {"loss": 0.25})
    assert content(curve.table) == {"seconds": [3.0, 4.0], "loss": [0.5, 0.25]}
    assert scene.GetNumberOfNodes() == nodes
    assert curve.chart.GetNumberOfPlotSeriesNodes() == 1


def test_a_deleted_series_stays_deleted(scene):
    curve = Curve(scene)
    for seconds in (0.0, 1.0):
        curve.append(seconds, {"loss": 1.0})
    scene.RemoveNode(curve.chart.GetNthPlotSeriesNode(0))
    curve.clear()
    for seconds in (0.0, 1.0):
        curve.append(seconds, {"loss": 1.0})
    assert curve.chart.GetNumberOfPlotSeriesNodes() == 0


def test_a_deleted_curve_is_left_alone(scene):
    curve = Curve(scene)
    for seconds in (0.0, 1.0):
        curve.append(seconds, {"loss": 1.0})
    scene.Clear(0)
    curve.append(2.0, {"loss": 1.0})
    assert not curve.is_present
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == 0
