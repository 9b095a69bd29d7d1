"""Classes that are added, renamed and removed while strokes are there."""

from __future__ import annotations

import numpy as np
import pytest
from scene_support import TABLE, add_volume, segment_named

from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.classes import classes_of, classes_of_result, remove_class, rename_class, with_class
from CrossModalSegLib.scene.drawing import Drawing
from CrossModalSegLib.scene.scribbles import prepare_scribbles, read_scribbles
from CrossModalSegLib.scene.segmentations import write_segmentation
from CrossModalSegLib.scene.volumes import read_grid


@pytest.fixture
def drawing(scene: object) -> Drawing:
    volume = add_volume(scene, np.zeros((3, 4, 5), dtype=np.int16), np.eye(4))
    drawing = Drawing(prepare_scribbles(scene, volume, TABLE), volume, TABLE)
    for value in (0, 1, 2, 3):
        drawing.draw(value, np.array([value, 20 + value]))
    return drawing


def test_the_classes_of_scribbles_are_read_back(drawing: Drawing) -> None:
    node = drawing.segmentation
    assert classes_of(node) == TABLE
    node.GetSegmentation().GetSegment(segment_named(node, "liver")).SetName("hepar")
    assert classes_of(node).names == TABLE.names
    node.GetSegmentation().AddEmptySegment("extra", "spleen ")
    assert classes_of(node).names == (*TABLE.names, "spleen")


def test_the_classes_of_a_result_are_in_the_order_of_their_values(scene: object) -> None:
    volume = add_volume(scene, np.zeros((3, 4, 5), dtype=np.int16), np.eye(4))
    labels = read_grid(volume).with_array(np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 3)
    node = write_segmentation(scene, labels, LabelTable.from_names(["liver", "spleen"]), volume, "R")
    assert classes_of_result(node) == LabelTable.from_names(["liver", "spleen"])
    # The segment of a class that came later is the last.
    write_segmentation(scene, labels, LabelTable.from_names(["tumor", "spleen"]), volume, "R", node)
    assert [classes_of(node).names, classes_of_result(node).names] == [("spleen", "tumor"), ("tumor", "spleen")]
    with pytest.raises(LabelError, match="no segment that was computed"):
        classes_of_result(prepare_scribbles(scene, volume, TABLE))


def test_scribbles_without_classes_or_with_one_twice_are_refused(scene: object) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    node.GetSegmentation().AddEmptySegment("a", "background")
    with pytest.raises(LabelError, match="'S' has no segment but background"):
        classes_of(node)
    node.GetSegmentation().AddEmptySegment("b", "liver")
    node.GetSegmentation().AddEmptySegment("c", "Liver")
    with pytest.raises(LabelError, match="Two segments of 'S' stand for 'Liver'"):
        classes_of(node)


def test_a_new_class_is_the_last_and_has_a_colour_of_its_own() -> None:
    table = TABLE
    for number in range(12):
        table = with_class(table, f"part {number}")
    assert table.names[-1] == "part 11"
    assert len({label.color for label in table.labels}) == len(table)
    assert table.labels[:3] == TABLE.labels


@pytest.mark.parametrize("name", ["Liver", "background", "  "])
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(LabelError):
        with_class(TABLE, name)


def test_strokes_follow_a_renamed_class(drawing: Drawing) -> None:
    table = rename_class([drawing.segmentation], TABLE, "left kidney", "Spleen")
    assert table.names == ("liver", "Spleen", "Tumör links")
    assert table.labels[1].color == TABLE.labels[1].color
    assert "Spleen" in table.labels[1].terminology
    array = read_scribbles(drawing.segmentation, drawing.reference, table).array.ravel()
    assert np.flatnonzero(array == 2).tolist() == [2, 22]
    assert segment_named(drawing.segmentation, "Spleen")


def test_strokes_of_a_removed_class_are_gone_and_others_stay(drawing: Drawing) -> None:
    table = remove_class([drawing.segmentation], TABLE, "left kidney")
    assert table.names == ("liver", "Tumör links")
    array = read_scribbles(drawing.segmentation, drawing.reference, table).array.ravel()
    places = {value: np.flatnonzero(array == value).tolist() for value in (0, 1, 2)}
    assert places == {0: [0, 20], 1: [1, 21], 2: [3, 23]}


def test_the_last_class_stays(drawing: Drawing) -> None:
    table = remove_class([drawing.segmentation], remove_class([drawing.segmentation], TABLE, "liver"), "left kidney")
    with pytest.raises(LabelError, match="at least one class"):
        remove_class([drawing.segmentation], table, "Tumör links")
    assert np.count_nonzero(read_scribbles(drawing.segmentation, drawing.reference, table).array == 1) == 2
