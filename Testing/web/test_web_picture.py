"""Small pictures that the browser is sent."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from urllib.parse import unquote

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")


from CrossModalSegLib.web.picture import brush_cursor, curve_svg


def test_a_curve_runs_from_left_to_right_and_down_with_the_loss() -> None:
    root = ET.fromstring(curve_svg([(1.0, 4.0), (2.0, 2.0), (4.0, 0.0)]).replace("<svg ", '<svg xmlns="" ', 1))
    points = [tuple(map(float, point.split(","))) for point in root.find("polyline").get("points").split()]
    xs, ys = zip(*points, strict=True)
    assert xs == (98.5, 163.0, 292.0)
    assert ys[0] < ys[1] < ys[2] == 68.0
    assert [text.text for text in root.findall("text")] == ["4", "0", "loss", "4 s"]


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)]])
def test_a_point_is_no_curve(points: list[tuple[float, float]]) -> None:
    assert curve_svg(points) == ""


def test_a_flat_curve_is_a_curve() -> None:
    assert "polyline" in curve_svg([(0.0, 1.0), (0.0, 1.0)])


def test_the_cursor_has_the_brush_in_its_middle() -> None:
    cursor = brush_cursor(20.0)
    assert cursor.endswith("11 11, crosshair")
    assert 'r="10.0"' in unquote(cursor)


@pytest.mark.parametrize("diameter", [1.0, 500.0])
def test_brushes_that_cannot_be_shown_are_a_cross(diameter: float) -> None:
    assert brush_cursor(diameter) == "crosshair"
