"""A scene that is saved and opened again still holds all that matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scene_support import TABLE, add_transform, add_volume, paint, save_mrb, segment_named, slicer_says

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.alignment import apply_transform, registration_of, remove_transform
from CrossModalSegLib.scene.cohorts import images_of, set_images
from CrossModalSegLib.scene.geometry import world_affine
from CrossModalSegLib.scene.nodes import RESULT, SCRIBBLES, drawn_on, role
from CrossModalSegLib.scene.results import last_result
from CrossModalSegLib.scene.scribbles import BACKGROUND, prepare_scribbles, read_scribbles
from CrossModalSegLib.scene.segmentations import read_mask, write_segmentation
from CrossModalSegLib.scene.tables import volumes_measured, write_measurements
from CrossModalSegLib.scene.volumes import read_grid, write_volume
from grids import grid_affine

SHAPE = (5, 7, 9)
OBLIQUE = grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))
MOVE = grid_affine((1, 1, 1), (0.4, 0.1, -0.7), (15.0, -40.0, 8.0))
OTHER_MOVE = grid_affine((1, 1, 1), (-0.2, 0.6, 0.1), (-3.0, 90.0, 21.0))
STRETCH = MOVE @ grid_affine((1.3, 0.8, 1), (1, 2, 3), (0, 0, 0))
SMALL = grid_affine((1, 1, 1), (0.05, 0.02, -0.1), (3.0, -4.0, 2.0))
LABELS = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)


def save_mrml(scene, folder: Path):
    """Every node into a file of its own beside the scene's."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLStorableNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLStorableNode")
        if not node.GetSaveWithScene() or node.GetHideFromEditors() or node.GetClassName() == "vtkMRMLColorTableNode":
            continue
        node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        if storage is not None:
            suffix = storage.GetDefaultWriteFileExtension()
            storage.SetFileName(str(folder / f"{node.GetID()}.{suffix}"))
            assert storage.WriteData(node)
    path = str(folder / "scene.mrml")
    scene.SetURL(path)
    assert scene.Commit()
    scene.Clear(0)
    scene.SetURL(path)
    assert scene.Connect()


@pytest.mark.parametrize("save", [save_mrb, save_mrml])
@pytest.mark.parametrize("above", [None, MOVE, STRETCH])
def test_strokes_results_and_registration_survive(scene, tmp_path, save, above):
    ct = add_volume(
        scene,
        np.zeros(SHAPE, np.float32),
        OBLIQUE,
        "CT",
        None if above is None else add_transform(scene, above, inverse=True, name="above"),
    )
    strokes = prepare_scribbles(scene, ct, TABLE)
    expected = np.full(SHAPE, 255, np.uint8)
    for value, name in ((1, "liver"), (3, "Tumör links"), (0, BACKGROUND)):
        mask = np.zeros(SHAPE, bool)
        mask[value, 3, 2:6] = True
        expected[mask] = value
        paint(strokes, segment_named(strokes, name), mask, OBLIQUE)
    strokes.GetSegmentation().GetSegment(segment_named(strokes, "liver")).SetName("Leber: links|rechts")
    result = write_segmentation(scene, read_grid(ct).with_array(LABELS), TABLE, ct, "Result")
    result.GetSegmentation().GetSegment(segment_named(result, "liver")).SetName("mine")
    write_volume(scene, read_grid(ct).with_array(np.full(SHAPE, 0.5, np.float32)), "probability", ct)
    write_measurements(scene, volumes_measured("CT", {"liver": 1.5}))
    apply_transform(scene, ct, SMALL)
    place = world_affine(ct)

    save(scene, tmp_path)

    ct, strokes, result, probability, table = (
        scene.GetFirstNodeByName(name) for name in ("CT", "Scribbles", "Result", "probability", "Measurements")
    )
    np.testing.assert_allclose(world_affine(ct), place, atol=1e-6)
    assert (role(strokes), role(result)) == (SCRIBBLES, RESULT)
    assert drawn_on(strokes) is drawn_on(result) is ct
    np.testing.assert_array_equal(read_scribbles(strokes, ct, TABLE).array, expected)
    np.testing.assert_array_equal(read_mask(result, ct, TABLE).array, LABELS)
    assert table.GetTable().GetNumberOfRows() == 1
    # What was made before is found and gone on with.
    assert prepare_scribbles(scene, ct, TABLE) is strokes
    assert strokes.GetSegmentation().GetNumberOfSegments() == 4
    second = LABELS[::-1].copy()
    write_segmentation(scene, read_grid(ct).with_array(second), TABLE, ct, "Result", result)
    assert result.GetSegmentation().GetNumberOfSegments() == 3
    np.testing.assert_array_equal(slicer_says(result, segment_named(result, "mine"), ct), second == 1)
    assert write_volume(scene, read_grid(ct), "probability", ct) is probability
    remove_transform(scene, registration_of(ct))
    np.testing.assert_allclose(SMALL @ world_affine(ct), place, atol=1e-6)
    np.testing.assert_array_equal(read_scribbles(strokes, ct, TABLE).array, expected)


@pytest.mark.parametrize("save", [save_mrb, save_mrml])
@pytest.mark.parametrize(("above_ct", "above_result"), [(MOVE, OTHER_MOVE), (None, STRETCH), (STRETCH, None)])
def test_a_result_under_another_transform_is_saved_without_moving_a_voxel(
    scene, tmp_path, save, above_ct, above_result
):
    """Slicer resamples to the reference grid when it saves; that grid has to be the very one of the voxels."""
    ct = add_volume(scene, np.zeros(SHAPE, np.float32), OBLIQUE, "CT")
    if above_ct is not None:
        ct.SetAndObserveTransformNodeID(add_transform(scene, above_ct).GetID())
    into = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
    if above_result is not None:
        into.SetAndObserveTransformNodeID(add_transform(scene, above_result).GetID())
    write_segmentation(scene, read_grid(ct).with_array(LABELS), TABLE, ct, "Result", into)
    save(scene, tmp_path)
    ct, result = scene.GetFirstNodeByName("CT"), scene.GetFirstNodeByName("Result")
    np.testing.assert_array_equal(read_mask(result, ct, TABLE).array, LABELS)


NAMES = ["GTV & nodes", "left|right", 'a <b> "c"', "Tumör: 50 %/links", "k;l~m^n", "ß" * 100]


@pytest.mark.parametrize("save", [save_mrb, save_mrml])
def test_names_of_any_kind_leave_a_scene_that_can_be_opened(scene, tmp_path, save):
    table = LabelTable.from_names(NAMES)
    ct = add_volume(scene, np.zeros(SHAPE, np.float32), OBLIQUE, "CT")
    strokes = prepare_scribbles(scene, ct, table, "CT & MR scribbles")
    expected = np.full(SHAPE, 255, np.uint8)
    for value, name in enumerate((BACKGROUND, *NAMES)):
        mask = np.zeros(SHAPE, bool)
        mask[value % 5, value // 5, 2:6] = True
        expected[mask] = value
        paint(strokes, segment_named(strokes, name), mask, OBLIQUE)
    images = {'T1 & "fs": <a;b>': ct, "ct": add_volume(scene, np.zeros(SHAPE, np.float32), OBLIQUE, "other")}
    set_images(strokes, images)
    labels = np.random.default_rng(1).integers(0, len(NAMES) + 1, SHAPE).astype(np.uint8)
    result = write_segmentation(scene, read_grid(ct).with_array(labels), table, ct, "CT & MR segmentation")
    for name in NAMES:
        write_volume(scene, read_grid(ct).with_array(labels), f"probability of {name}", ct)
        result.GetDisplayNode().SetSegmentVisibility(segment_named(result, name), False)
    assert (
        write_volume(scene, read_grid(ct), f"probability of {NAMES[0]}", ct).GetName() == "probability of GTV + nodes"
    )

    save(scene, tmp_path)

    ct, strokes = scene.GetFirstNodeByName("CT"), scene.GetFirstNodeByName("CT + MR scribbles")
    np.testing.assert_array_equal(read_scribbles(strokes, ct, table).array, expected)
    assert {modality: node.GetName() for modality, node in images_of(strokes).items()} == {
        'T1 & "fs": <a;b>': "CT",
        "ct": "other",
    }
    result = last_result(scene, ct, "CT & MR segmentation")
    np.testing.assert_array_equal(read_mask(result, ct, table).array, labels)
    assert not any(result.GetDisplayNode().GetSegmentVisibility(segment_named(result, name)) for name in NAMES)
    assert prepare_scribbles(scene, ct, table, "CT & MR scribbles") is strokes
