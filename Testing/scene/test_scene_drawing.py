"""Strokes by hand: which voxels a brush touches, and drawing, erasing, undo and redo on real segments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from scene_support import TABLE, add_transform, add_volume, affines, rigid

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.scene.brush import brushed
from CrossModalSegLib.scene.drawing import Drawing
from CrossModalSegLib.scene.scribbles import count_scribbles, prepare_scribbles, read_scribbles
from CrossModalSegLib.scene.volumes import add_volume as add_image
from CrossModalSegLib.scene.volumes import read_volume
from CrossModalSegLib.volume import Volume
from grids import grid_affine

SHAPE = (4, 6, 8)


def volume_of(scene: object, to_ras: np.ndarray, parent: object = None):
    return add_volume(scene, np.zeros(SHAPE, dtype=np.int16), to_ras, "ct", parent)


def places(flat: np.ndarray) -> set[tuple[int, int, int]]:
    """(i, j, k)."""
    k, j, i = np.unravel_index(flat, SHAPE)
    return set(zip(i.tolist(), j.tolist(), k.tolist(), strict=True))


def test_a_disc_takes_the_voxels_whose_centres_it_covers(scene: object) -> None:
    volume = volume_of(scene, np.diag([1.0, 1.0, 3.0, 1.0]))
    flat = brushed(volume, (3, 3, 6), (3, 3, 6), (0, 0, 1), 1.0)
    assert places(flat) == {(3, 3, 2), (2, 3, 2), (4, 3, 2), (3, 2, 2), (3, 4, 2)}


def test_a_path_is_a_band_without_gaps(scene: object) -> None:
    volume = volume_of(scene, np.diag([1.0, 1.0, 3.0, 1.0]))
    flat = brushed(volume, (1, 2, 3), (6, 2, 3), (0, 0, -5), 1.0)
    rows = {(i, j, 1) for i in range(1, 7) for j in (1, 2, 3)} | {(0, 2, 1), (7, 2, 1)}
    assert places(flat) == rows


def test_a_brush_finer_than_the_voxels_draws_what_it_runs_through(scene: object) -> None:
    volume = volume_of(scene, np.diag([2.0, 2.0, 2.0, 1.0]))
    flat = brushed(volume, (0.6, 0.6, 0.4), (6.6, 0.6, 0.4), (0, 0, 1), 0.05)
    assert places(flat) == {(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)}


def test_a_slice_between_two_layers_takes_one(scene: object) -> None:
    volume = volume_of(scene, np.eye(4))
    layers = {k for _, _, k in places(brushed(volume, (3, 3, 1.5), (3, 3, 1.5), (0, 0, 1), 2.2))}
    assert len(layers) == 1


def test_across_thick_slices_every_slice_of_the_way_is_drawn(scene: object) -> None:
    volume = volume_of(scene, np.diag([1.0, 1.0, 5.0, 1.0]))
    assert places(brushed(volume, (3, 2, 0), (3, 2, 15), (1, 0, 0), 0.5)) == {(3, 2, k) for k in range(4)}


def test_outside_of_the_volume_nothing_is_drawn(scene: object) -> None:
    assert brushed(volume_of(scene, np.eye(4)), (90, 90, 90), (95, 90, 90), (0, 0, 1), 3.0).size == 0


def test_a_brush_needs_a_size(scene: object) -> None:
    with pytest.raises(InputError, match="radius of a brush should be above 0 mm, got 0"):
        brushed(volume_of(scene, np.eye(4)), (0, 0, 0), (1, 0, 0), (0, 0, 1), 0.0)


@given(to_ras=affines, move=rigid)
def test_a_dot_marks_its_voxel_in_turned_grids_and_under_transforms(headless, to_ras, move) -> None:
    headless.scene.Clear(0)
    volume = volume_of(headless.scene, to_ras, add_transform(headless.scene, move))
    to_world = move @ to_ras
    point = (to_world @ (5, 2, 3, 1))[:3]
    flat = brushed(volume, point, point, to_world[:3, 2], 0.01)
    assert places(flat) == {(5, 2, 3)}


@pytest.fixture
def drawing(scene: object) -> Drawing:
    volume = volume_of(scene, grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0)))
    return Drawing(prepare_scribbles(scene, volume, TABLE), volume, TABLE)


def drawn(drawing: Drawing) -> np.ndarray:
    return read_scribbles(drawing.segmentation, drawing.reference, TABLE).array.ravel()


def expected(**flats: list[int]) -> np.ndarray:
    result = np.full(np.prod(SHAPE), 255, dtype=np.uint8)
    for name, flat in flats.items():
        result[flat] = int(name[1:])
    return result


def test_strokes_are_real_segments(drawing: Drawing) -> None:
    assert drawing.draw(2, np.array([3, 4, 5])) == 3
    assert drawing.draw(2, np.array([5, 6])) == 1
    assert drawing.draw(0, np.array([100])) == 1
    np.testing.assert_array_equal(drawn(drawing), expected(v2=[3, 4, 5, 6], v0=[100]))
    assert count_scribbles(drawing.segmentation, drawing.reference, TABLE)["left kidney"] == 4
    assert drawing.counts()[2] == 4


def test_drawing_takes_voxels_from_other_classes(drawing: Drawing) -> None:
    drawing.draw(1, np.array([3, 4, 5]))
    drawing.draw(3, np.array([5, 6]))
    np.testing.assert_array_equal(drawn(drawing), expected(v1=[3, 4], v3=[5, 6]))


def test_erasing_takes_from_all_classes(drawing: Drawing) -> None:
    drawing.draw(1, np.array([3, 4]))
    drawing.draw(0, np.array([5, 6]))
    drawing.draw(255, np.array([4, 5, 90]))
    np.testing.assert_array_equal(drawn(drawing), expected(v1=[3], v0=[6]))


def test_undo_and_redo_go_by_strokes(drawing: Drawing) -> None:
    drawing.draw(1, np.array([3, 4]))
    drawing.draw(1, np.array([5]))
    assert drawing.end_stroke()
    drawing.draw(2, np.array([5, 6]))
    assert drawing.end_stroke()
    assert not drawing.end_stroke()
    assert drawing.undo() and drawing.can_redo
    np.testing.assert_array_equal(drawn(drawing), expected(v1=[3, 4, 5]))
    assert drawing.undo() and not drawing.undo()
    np.testing.assert_array_equal(drawn(drawing), expected())
    assert drawing.redo() and drawing.redo() and not drawing.redo()
    np.testing.assert_array_equal(drawn(drawing), expected(v1=[3, 4], v2=[5, 6]))


def test_a_new_stroke_forgets_what_was_taken_back(drawing: Drawing) -> None:
    drawing.draw(1, np.array([3]))
    drawing.undo()
    drawing.draw(1, np.array([4]))
    drawing.end_stroke()
    assert not drawing.can_redo


def test_undo_leaves_what_others_drew_since(drawing: Drawing) -> None:
    other = Drawing(drawing.segmentation, drawing.reference, TABLE)
    drawing.draw(1, np.array([3, 4]))
    drawing.end_stroke()
    other.refresh()
    other.draw(0, np.array([4, 5]))
    drawing.refresh()
    drawing.undo()
    np.testing.assert_array_equal(drawn(drawing), expected(v0=[4, 5]))


def test_clearing_is_one_step(drawing: Drawing) -> None:
    drawing.draw(1, np.array([3, 4]))
    drawing.end_stroke()
    drawing.draw(0, np.array([4, 5]))
    drawing.clear()
    np.testing.assert_array_equal(drawn(drawing), expected())
    assert not drawing.counts().any()
    drawing.undo()
    np.testing.assert_array_equal(drawn(drawing), expected(v1=[3], v0=[4, 5]))
    assert {value: int(n) for value, n in enumerate(drawing.counts()) if n} == {0: 2, 1: 1}


def test_a_stroke_that_changes_nothing_is_no_step(drawing: Drawing) -> None:
    assert drawing.draw(255, np.array([1, 2])) == 0
    assert not drawing.end_stroke() and not drawing.can_undo


def test_an_image_comes_into_the_scene_where_it_lies(scene: object, oblique_volume: Volume) -> None:
    back = read_volume(add_image(scene, oblique_volume, "mr"))
    np.testing.assert_array_equal(back.array, oblique_volume.array)
    np.testing.assert_allclose(back.affine, oblique_volume.affine, atol=1e-9)
