"""The picture of a referring segmentation: which slices it shows, and that it is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from CrossModalSegLib.data.referring.slices import SlicePreprocessing, slice_frame
from CrossModalSegLib.errors import GeometryError, InputError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.report import ReferredImage, write_refer_overlay
from CrossModalSegLib.report.patient_axes import Plane
from CrossModalSegLib.report.refer_overlay import _blocks, _Column, _content, _nearest, plane_of, shown_slices
from CrossModalSegLib.volume import Volume
from grids import rotation

TABLE = LabelTable.from_names(["liver", "spleen"])
SHAPE = (9, 30, 34)


def scribbles() -> np.ndarray:
    array = np.full(SHAPE, 255, np.uint8)
    array[2, 8:14, 8] = 1
    array[6, 8:14, 8] = 1
    array[6, 20:24, 20] = 2
    array[6, 2, 2:20] = 0
    return array


def labels() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:8, 6:18, 5:15] = 1
    array[8, 6, 5] = 1
    array[5:8, 18:26, 18:24] = 2
    return array


def referred(shape=SHAPE, origin=0.0, matching="position") -> ReferredImage:
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[2, 3] = origin
    image = np.random.default_rng(0).normal(100, 20, shape)
    segmentation = np.zeros(shape, np.uint8)
    segmentation[: shape[0] // 2, 4:12, 4:12] = 1
    return ReferredImage(Volume(image, affine), Volume(segmentation, affine), matching)


def given() -> ReferredImage:
    reference = referred()
    return ReferredImage(reference.image, reference.image.with_array(labels()), "position")


def test_a_slice_with_strokes_of_all_organs_comes_before_others_and_one_far_away_follows():
    """Slice 6 has both organs; then the largest area times distance: slice 1 (5 away), not the tip in slice 8."""
    assert shown_slices(scribbles(), labels(), 1) == (6,)
    assert shown_slices(scribbles(), labels(), 2) == (6, 1)
    assert len(shown_slices(scribbles(), labels(), 3)) == 3


def test_strokes_of_different_organs_on_different_slices_are_all_shown():
    strokes = scribbles()
    strokes[6][strokes[6] == 1] = 255
    assert shown_slices(strokes, labels(), 2) == (6, 2)


def test_an_empty_segmentation_shows_the_strokes():
    assert shown_slices(scribbles(), np.zeros(SHAPE, np.uint8), 3) == (6,)
    with pytest.raises(InputError, match="needs scribbles on its reference"):
        shown_slices(np.full(SHAPE, 255, np.uint8), labels(), 3)


def test_a_target_that_does_not_reach_is_not_shown_at_its_last_slice():
    reference = slice_frame(given().image, SlicePreprocessing())
    target = slice_frame(referred((4, 30, 34), 10.0).image, SlicePreprocessing())
    positions = np.array([2.0, 3.0, 4.0, 5.0])
    shown = [_nearest(positions, row, target, reference, "position") for row in (1, 2, 5, 6, 7)]
    assert shown == [0, 0, 3, 3, None]


def test_a_target_matched_by_order_has_a_slice_for_each_row_however_few_it_has():
    reference = slice_frame(given().image, SlicePreprocessing())
    target = slice_frame(referred((3, 30, 34), 900.0).image, SlicePreprocessing())
    positions = np.array([0.0, 4.0, 8.0])
    assert [_nearest(positions, row, target, reference, "order") for row in (0, 1, 3, 6, 8)] == [0, 0, 1, 1, 2]


def test_pictures_are_cut_to_what_they_show():
    shown = np.zeros((3, 40, 40), bool)
    shown[1, 20:30, 12:14] = True
    shown[2] = True
    rows, columns = _content((1, None), (shown, np.zeros_like(shown)), (2.0, 4.0))
    assert (rows, columns) == (slice(16, 34), slice(10, 16))  # 8 mm around
    assert _content((0,), (shown,), (1.0, 1.0)) == (slice(None), slice(None))


def test_edges_are_named_after_the_sides_of_the_patient():
    def letters(matrix: object) -> str:
        affine = np.eye(4)
        affine[:3, :3] = matrix
        plane = plane_of(slice_frame(Volume(np.zeros((8, 40, 40)), affine), SlicePreprocessing()))
        return "".join((plane.left, plane.right, plane.top, plane.bottom))

    assert letters(np.diag([2.0, 2.0, 6.0])) == "RLAP"
    assert letters(np.diag([-2.0, -2.0, 6.0])) == "RLAP"  # slices are turned, not only named
    assert letters([[2.0, 0, 0], [0, 0, 9.0], [0, -2.0, 0]]) == "RLSI"  # thick coronal slices
    assert letters(rotation(0.2, 0.1, -0.3) * np.array([2.0, 2.0, 6.0])) == "RLAP"


def test_many_targets_go_below_beside_the_strokes_again():
    image, plane = np.zeros((1, 2, 2)), Plane("slices", 0, "R", "L", "A", "P")
    columns = [_Column(str(n), "", image, None, None, (0,), (1.0, 1.0), plane) for n in range(12)]
    blocks = _blocks(columns[:2], columns[2:])
    assert [[column.title for column in block] for block in blocks] == [
        ["0", "1", "2", "3", "4", "5"],
        ["0", "6", "7", "8", "9", "10"],
        ["0", "11"],
    ]


def test_the_picture_is_written_and_always_the_same(tmp_path: Path):
    reference = given()
    strokes = reference.image.with_array(scribbles())
    for name in ("a.png", "b.png"):
        write_refer_overlay(tmp_path / name, ("T2", reference), strokes, {}, TABLE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    targets = {"T1 é": referred((6, 20, 50), 12.0), "far away": referred((5, 24, 24), 900.0, "order")}
    write_refer_overlay(tmp_path / "two.png", ("T2", reference), strokes, targets, TABLE)
    picture = imread(tmp_path / "two.png")
    assert picture.std() > 0.05
    assert imread(tmp_path / "a.png").shape[1] < picture.shape[1]


def test_labels_on_another_grid_are_refused(tmp_path: Path):
    reference, other = given(), referred((5, 24, 24))
    strokes = reference.image.with_array(scribbles())
    wrong = ReferredImage(other.image, reference.labels, "order")
    with pytest.raises(GeometryError, match="'target' and 'labels' should share one grid"):
        write_refer_overlay(tmp_path / "x.png", ("T2", reference), strokes, {"T1": wrong}, TABLE)
    assert not list(tmp_path.iterdir())
