"""Results lie exactly where they were computed, and nothing but results is ever replaced."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from hypothesis import given
from hypothesis import strategies as st
from scene_support import (
    TABLE,
    add_segment,
    add_segmentation,
    add_transform,
    add_volume,
    affine_transforms,
    affines,
    paint,
    rigid,
    segment_named,
    slicer_says,
    vtk_image,
    vtk_matrix,
)
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkStringArray
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from CrossModalSegLib.errors import GeometryError, InputError, LabelError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.change import Change
from CrossModalSegLib.scene.images import oriented_affine, set_voxels, voxels
from CrossModalSegLib.scene.preview import Preview
from CrossModalSegLib.scene.scribbles import prepare_scribbles, read_scribbles
from CrossModalSegLib.scene.segmentations import (
    named_classes,
    read_mask,
    show_surfaces,
    shows_surfaces,
    write_segmentation,
)
from CrossModalSegLib.scene.volumes import read_grid
from CrossModalSegLib.volume import Volume
from grids import grid_affine

SHAPE = (5, 7, 9)
OBLIQUE = grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))
MOVE = grid_affine((1, 1, 1), (0.4, 0.1, -0.7), (15.0, -40.0, 8.0))
OTHER_MOVE = grid_affine((1, 1, 1), (-0.2, 0.6, 0.1), (-3.0, 90.0, 21.0))
STRETCH = grid_affine((1, 1, 1), (0.4, 0.1, -0.7), (15.0, -40.0, 8.0)) @ grid_affine(
    (1.3, 0.8, 1), (1, 2, 3), (0, 0, 0)
)


def random_labels(seed: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes + 1, SHAPE).astype(np.uint8)


def add_ct(scene, parent=None, affine=OBLIQUE, name="ct"):
    return add_volume(scene, np.zeros(SHAPE, np.float32), affine, name, parent)


def on(ct, array: np.ndarray) -> Volume:
    return read_grid(ct).with_array(array)


def names(node) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(index).GetName() for index in range(segmentation.GetNumberOfSegments())]


def in_the_world(node, identity: str) -> set[tuple[float, ...]]:
    """RAS positions (rounded) of the voxels of a segment, by arithmetic on what the node holds."""
    segment = node.GetSegmentation().GetSegment(identity)
    image = segment.GetRepresentation("Binary labelmap")
    to_node, to_world = vtkMatrix4x4(), vtkMatrix4x4()
    image.GetImageToWorldMatrix(to_node)
    if node.GetParentTransformNode() is not None:
        node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
    vtkMatrix4x4.Multiply4x4(to_world, to_node, to_node)
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    extent = image.GetExtent()
    found = np.argwhere(array == segment.GetLabelValue())[:, ::-1] + extent[::2]
    return {tuple(np.round(to_node.MultiplyPoint((*index, 1))[:3], 4) + 0.0) for index in found.tolist()}


def positions(mask: np.ndarray, ijk_to_world: np.ndarray) -> set[tuple[float, ...]]:
    index = np.argwhere(mask)[:, ::-1]
    return {tuple(np.round((ijk_to_world @ (*each, 1))[:3], 4) + 0.0) for each in index.tolist()}


# --- where ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), affines, affine_transforms)
def test_a_new_result_has_the_very_voxels_of_its_volume(headless, seed, own, move):
    scene = headless.scene
    scene.Clear(0)
    ct = add_ct(scene, add_transform(scene, move), own)
    array = random_labels(seed)
    node = write_segmentation(scene, on(ct, array), TABLE, ct, "Result")
    assert node.GetTransformNodeID() == ct.GetTransformNodeID()
    for label in TABLE.labels:
        np.testing.assert_array_equal(slicer_says(node, segment_named(node, label.name), ct), array == label.value)
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, array)


# Slicer itself cannot say it for two different transforms, nor for a sheared grid: there the world says it.
@pytest.mark.parametrize("above_ct", [None, MOVE, STRETCH])
@pytest.mark.parametrize("above_result", [None, OTHER_MOVE, STRETCH])
def test_into_a_segmentation_under_any_transform(scene, above_ct, above_result):
    ct = add_ct(scene, None if above_ct is None else add_transform(scene, above_ct))
    parent = None if above_result is None else add_transform(scene, above_result, inverse=True)
    into = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    if parent is not None:
        into.SetAndObserveTransformNodeID(parent.GetID())
    array = random_labels(1)
    node = write_segmentation(scene, on(ct, array), TABLE, ct, "Result", into)
    assert node is into
    assert node.GetParentTransformNode() is parent
    to_world = np.eye(4) if above_ct is None else above_ct
    for label in TABLE.labels:
        expected = positions(array == label.value, to_world @ OBLIQUE)
        assert in_the_world(node, segment_named(node, label.name)) == expected
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, array)
    # The grid that Slicer saves on is that of the volume, seen from the segmentation.
    parameter = node.GetSegmentation().GetConversionParameter("Reference image geometry")
    matrix = np.array([float(part) for part in parameter.split(";")[:16]]).reshape(4, 4)
    from_parent = np.eye(4) if above_result is None else above_result
    np.testing.assert_allclose(from_parent @ matrix, to_world @ OBLIQUE, atol=1e-9)


def test_slicer_s_usual_way_of_writing_is_wrong_where_ours_is_right(scene):
    """Trap 1: importing a label map under another transform than that of the segmentation moves it twice."""
    ct = add_ct(scene, add_transform(scene, MOVE))
    array = random_labels(2, classes=1)
    labelmap = add_volume(scene, array, OBLIQUE, "l", ct.GetParentTransformNode(), "vtkMRMLLabelMapVolumeNode")
    slicers = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "theirs")
    ours = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "ours")
    identity = slicers.GetSegmentation().AddEmptySegment("theirs", "liver")
    identities = vtkStringArray()
    identities.InsertNextValue(identity)
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labelmap, slicers, identities)
    write_segmentation(scene, on(ct, array), TABLE, ct, "Result", ours)
    expected = positions(array == 1, MOVE @ OBLIQUE)
    assert in_the_world(ours, segment_named(ours, "liver")) == expected
    assert in_the_world(slicers, identity) == positions(array == 1, MOVE @ MOVE @ OBLIQUE)


def test_labels_of_another_grid_are_refused(scene):
    ct = add_ct(scene, add_transform(scene, MOVE))
    labels = on(ct, random_labels(0))
    ct.GetParentTransformNode().SetMatrixTransformToParent(vtk_matrix(OTHER_MOVE))
    before = scene.GetNumberOfNodes()
    with pytest.raises(GeometryError, match="does not lie on the grid of 'ct'"):
        write_segmentation(scene, labels, TABLE, ct, "Result")
    assert scene.GetNumberOfNodes() == before


# --- what -------------------------------------------------------------------------------------------------------------


def test_names_colours_codes_grid_and_folder(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    ct = add_ct(scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "patient")
    hierarchy.CreateItem(folder, ct)
    node = write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result")
    assert node.GetName() == "Result"
    assert names(node) == list(TABLE.names)
    for index, label in enumerate(TABLE.labels):
        segment = node.GetSegmentation().GetNthSegment(index)
        assert tuple(round(255 * part) for part in segment.GetColor()) == label.color
        assert segment.GetTerminology() == label.terminology
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is ct
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == folder
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_empty_classes_and_an_empty_result(scene):
    ct = add_ct(scene)
    node = write_segmentation(scene, on(ct, np.zeros(SHAPE, np.uint8)), TABLE, ct, "Result", show_3d=True)
    assert names(node) == list(TABLE.names)
    assert not read_mask(node, ct, TABLE).array.any()


def test_surfaces_on_request_and_anew_where_there_were_some(scene):
    ct = add_ct(scene, add_transform(scene, MOVE))
    array = np.zeros(SHAPE, np.uint8)
    array[1:4, 2:6, 2:5] = 1
    node = write_segmentation(scene, on(ct, array), TABLE, ct, "Result", show_3d=True)
    assert node.GetDisplayNode().GetVisibility3D()

    def surface():
        return node.GetSegmentation().GetSegment(segment_named(node, "liver")).GetRepresentation("Closed surface")

    small = surface().GetBounds()
    array[1:4, 2:6, 2:8] = 1
    change = Change(scene)
    write_segmentation(scene, on(ct, array), TABLE, ct, "Result", node, change=change)
    large = surface().GetBounds()
    assert large[1] - large[0] > small[1] - small[0] + 1
    change.undo()
    np.testing.assert_allclose(surface().GetBounds(), small, atol=1e-4)


def test_surfaces_of_a_hidden_result_are_seen_on_request_and_undo_hides_it_again(scene):
    ct = add_ct(scene)
    node = write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result")
    display = node.GetDisplayNode()
    for hide in (display.SetVisibility, display.SetVisibility3D):
        hide(True)
        hide(False)
        before = display.GetVisibility(), display.GetVisibility3D()
        change = Change(scene)
        write_segmentation(scene, on(ct, random_labels(1)), TABLE, ct, "Result", node, show_3d=True, change=change)
        assert shows_surfaces(node)
        change.undo()
        assert (display.GetVisibility(), display.GetVisibility3D()) == before
        show_surfaces(node, True)
        assert shows_surfaces(node)


def test_only_our_segments_are_replaced(scene):
    ct = add_ct(scene)
    into = add_segmentation(scene, {"liver": random_labels(5) == 1, "by hand": random_labels(5) == 2}, OBLIQUE)
    write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result", into)
    assert names(into) == ["liver", "by hand", *TABLE.names]
    ours = into.GetSegmentation().GetNthSegmentID(2)
    into.GetSegmentation().GetSegment(ours).SetName("Leber")
    into.GetSegmentation().GetSegment(ours).SetColor(0, 0, 1)
    second = random_labels(7)
    write_segmentation(scene, on(ct, second), TABLE, ct, "Result", into)
    assert names(into) == ["liver", "by hand", "Leber", "left kidney", "Tumör links"]
    assert into.GetSegmentation().GetSegment(ours).GetColor() == (0, 0, 1)
    np.testing.assert_array_equal(slicer_says(into, "s0", ct), random_labels(5) == 1)
    np.testing.assert_array_equal(slicer_says(into, "s1", ct), random_labels(5) == 2)
    np.testing.assert_array_equal(slicer_says(into, ours, ct), second == 1)


def test_results_whose_names_were_exchanged_are_what_they_are_called(scene):
    """As after a left kidney that was taken for the right one."""
    ct, array, other = add_ct(scene), random_labels(0), random_labels(1)
    node = write_segmentation(scene, on(ct, array), TABLE, ct, "Result")
    ids = [segment_named(node, name) for name in ("liver", "left kidney")]
    for identity, name in zip(ids, ("Left Kidney", "liver"), strict=True):
        node.GetSegmentation().GetSegment(identity).SetName(name)
    exchanged = np.array([0, 2, 1, 3], np.uint8)
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, exchanged[array])
    change = Change(scene)
    write_segmentation(scene, on(ct, other), TABLE, ct, "Result", node, change=change)
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, other)
    assert set(names(node)) == {"liver", "Left Kidney", "Tumör links"}
    for name, value in (("liver", 1), ("Left Kidney", 2)):
        np.testing.assert_array_equal(slicer_says(node, segment_named(node, name), ct), other == value)
    change.undo()
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, exchanged[array])
    preview = Preview(scene, TABLE, ct, "Result", node)
    for seed in (2, 3):
        preview.show(on(ct, random_labels(seed)))
        np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(seed))
    preview.cancel()
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, exchanged[array])


def test_classes_that_are_no_longer_there_go(scene):
    ct = add_ct(scene)
    node = write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result")
    table = LabelTable.from_names(["spleen", "Tumör links"])
    second = random_labels(1, classes=2)
    change = Change(scene)
    write_segmentation(scene, on(ct, second), table, ct, "Result", node, change=change)
    assert names(node) == ["Tumör links", "spleen"]
    np.testing.assert_array_equal(read_mask(node, ct, table).array, second)
    change.undo()
    assert names(node) == list(TABLE.names)
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(0))


def test_a_segment_in_our_image_keeps_its_voxels_and_never_gets_ours(scene):
    """A person draws a new segment into a result: Slicer puts it into the result's image."""
    ct = add_ct(scene)
    array = np.zeros(SHAPE, np.uint8)
    array[0], array[1], array[2] = 1, 2, 3
    node = write_segmentation(scene, on(ct, array), TABLE, ct, "Result")
    drawn = np.zeros(SHAPE, bool)
    drawn[4, 2, 3] = True
    extra = node.GetSegmentation().AddEmptySegment("", "extra")
    paint(node, extra, drawn, OBLIQUE)
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    change = Change(scene)
    write_segmentation(scene, on(ct, array[::-1].copy()), TABLE, ct, "Result", node, change=change)
    for _ in range(2):
        np.testing.assert_array_equal(slicer_says(node, extra, ct), drawn)
        # A segment that is added now must not inherit voxels that were left behind.
        for number in range(4):
            new = node.GetSegmentation().AddEmptySegment("", f"new {number}")
            assert not slicer_says(node, new, ct).any()
            node.GetSegmentation().RemoveSegment(new)
        change.undo()
    for label in TABLE.labels:
        np.testing.assert_array_equal(slicer_says(node, segment_named(node, label.name), ct), array == label.value)


def test_what_cannot_be_written(scene):
    ct = add_ct(scene)
    labels = on(ct, random_labels(0))
    before = scene.GetNumberOfNodes()
    with pytest.raises(LabelError, match="holds the value 9"):
        write_segmentation(scene, on(ct, np.full(SHAPE, 9, np.uint8)), TABLE, ct, "Result")
    assert scene.GetNumberOfNodes() == before
    scribbles = prepare_scribbles(scene, ct, TABLE)
    with pytest.raises(InputError, match="'Scribbles' holds scribbles, which are never overwritten"):
        write_segmentation(scene, labels, TABLE, ct, "Result", scribbles)
    assert (read_scribbles(scribbles, ct, TABLE).array == 255).all()
    gone = add_segmentation(scene, {}, OBLIQUE, "gone")
    scene.RemoveNode(gone)
    with pytest.raises(InputError, match="'gone' is not in the scene any more"):
        write_segmentation(scene, labels, TABLE, ct, "Result", gone)
    surfaces = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "M")
    surfaces.SetSourceRepresentationToClosedSurface()
    with pytest.raises(InputError, match="'M' holds surfaces"):
        write_segmentation(scene, labels, TABLE, ct, "Result", surfaces)
    scene.RemoveNode(ct)
    with pytest.raises(InputError, match="'ct' is not in the scene any more"):
        write_segmentation(scene, labels, TABLE, ct, "Result")


# --- undo -------------------------------------------------------------------------------------------------------------


def test_one_undo_takes_a_new_result_away(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    ct = add_ct(scene)
    before, items = scene.GetNumberOfNodes(), hierarchy.GetNumberOfItems()
    change = Change(scene)
    write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result", change=change)
    change.undo()
    assert (scene.GetNumberOfNodes(), hierarchy.GetNumberOfItems()) == (before, items)


@pytest.mark.parametrize("has_surfaces", [False, True])
def test_what_was_drawn_beside_a_new_result_stays_when_that_is_taken_away(scene, has_surfaces):
    ct = add_ct(scene, add_transform(scene, MOVE))
    labels = random_labels(0)
    change = Change(scene)
    node = write_segmentation(scene, on(ct, labels), TABLE, ct, "Result", show_3d=has_surfaces, change=change)
    segmentation = node.GetSegmentation()
    identity = segmentation.AddEmptySegment("mine", "by hand")  # shares the image of the result
    paint(node, identity, labels == 0, OBLIQUE)
    change.undo()
    assert segmentation.GetSegmentIDs() == (identity,)
    np.testing.assert_array_equal(slicer_says(node, identity, ct), labels == 0)
    assert segmentation.ContainsRepresentation("Closed surface") == has_surfaces
    change.undo()
    assert scene.IsNodePresent(node)
    again = random_labels(1)
    write_segmentation(scene, on(ct, again), TABLE, ct, "Result", node)
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, again)
    np.testing.assert_array_equal(slicer_says(node, identity, ct), labels == 0)


def test_one_undo_brings_the_former_result_back_and_keeps_what_was_drawn_beside_it(scene):
    ct = add_ct(scene, add_transform(scene, MOVE))
    mr = add_ct(scene, name="mr")
    first, second = random_labels(0), random_labels(1)
    node = add_segmentation(scene, {"by hand": random_labels(5) == 1}, OBLIQUE, parent=ct.GetParentTransformNode())
    node.SetReferenceImageGeometryParameterFromVolumeNode(mr)
    write_segmentation(scene, on(ct, first), TABLE, ct, "Result", node)
    change = Change(scene)
    write_segmentation(scene, on(ct, second), TABLE, ct, "Result", node, change=change)
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, second)
    paint(node, "s0", random_labels(5) == 2, OBLIQUE)
    change.undo()
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, first)
    np.testing.assert_array_equal(slicer_says(node, "s0", ct), np.isin(random_labels(5), (1, 2)))
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is mr


def test_undo_after_the_person_deleted_things(scene):
    ct = add_ct(scene)
    node = write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result")
    change = Change(scene)
    write_segmentation(scene, on(ct, random_labels(1)), TABLE, ct, "Result", node, change=change)
    node.GetSegmentation().RemoveSegment(segment_named(node, "liver"))
    change.undo()
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(0))
    change = Change(scene)
    write_segmentation(scene, on(ct, random_labels(1)), TABLE, ct, "Result", node, change=change)
    scene.RemoveNode(node)
    change.undo()
    scene.Clear(0)
    change.undo()


@pytest.mark.parametrize("into", [False, True])
def test_the_scene_s_own_undo(scene, into):
    """Off in Slicer by default; where it is on, one scene.Undo() takes one result back."""
    scene.SetUndoOn()
    try:
        ct = add_ct(scene)
        node = write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result") if into else None
        levels = scene.GetNumberOfUndoLevels()
        written = write_segmentation(scene, on(ct, random_labels(1)), TABLE, ct, "Result", node)
        assert scene.GetNumberOfUndoLevels() == levels + 1
        scene.Undo()
        if into:
            np.testing.assert_array_equal(read_mask(written, ct, TABLE).array, random_labels(0))
        else:
            assert not scene.IsNodePresent(written)
    finally:
        scene.ClearUndoStack()
        scene.SetUndoOff()


# --- preview ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("into", [False, True])
def test_previews_copy_voxels_only_and_are_one_step(scene, into):
    ct = add_ct(scene, add_transform(scene, MOVE))
    node = write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result") if into else None
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    before = scene.GetNumberOfNodes()
    preview = Preview(scene, TABLE, ct, "Result", node)
    shown = preview.show(on(ct, random_labels(1)))
    assert (shown is node) == into
    image = shown.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    changes = []
    shown.GetSegmentation().AddObserver(
        slicer.vtkSegmentation.SourceRepresentationModified, lambda *_: changes.append(1)
    )
    for seed in (2, 3):
        assert preview.show(on(ct, random_labels(seed))) is shown
        np.testing.assert_array_equal(read_mask(shown, ct, TABLE).array, random_labels(seed))
    assert shown.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap") is image
    assert len(changes) == 2
    preview.cancel()
    preview.cancel()
    if into:
        np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(0))
    assert scene.GetNumberOfNodes() == before


def changes_of(node) -> list[int]:
    """Grows whenever those who show a segmentation have to look at it again."""
    changes = []
    node.GetSegmentation().AddObserver(
        slicer.vtkSegmentation.SourceRepresentationModified, lambda *_: changes.append(1)
    )
    return changes


def test_of_a_compared_answer_only_what_changed_is_written(scene):
    ct = add_ct(scene, add_transform(scene, MOVE))
    preview = Preview(scene, TABLE, ct, "Result")
    preview.make_room()
    first = on(ct, random_labels(1))
    node = preview.show(first, preview.compare(first))
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(1))
    array = random_labels(1)
    array[1:3, 2, 3] = (array[1:3, 2, 3] + 1) % 4
    second = on(ct, array)
    compared = preview.compare(second)
    assert compared.box == (slice(1, 3), slice(2, 3), slice(3, 4))
    changes = changes_of(node)
    # The mark outside of the box stays only where nothing is written there.
    held = voxels(node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap"))
    held[0, 0, 0] = 77
    preview.show(second, compared)
    assert held[0, 0, 0] == 77
    held[0, 0, 0] = array[0, 0, 0]
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, array)
    assert len(changes) == 1
    preview.show(second, preview.compare(second))
    assert len(changes) == 1  # nothing changed, so nobody has to look
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, array)


@pytest.mark.parametrize("what", ["another answer", "a hand", "a deleted segment", "a deleted segmentation"])
def test_what_an_answer_was_compared_with_is_gone_when_it_is_shown(scene, what):
    ct = add_ct(scene, add_transform(scene, MOVE))
    preview = Preview(scene, TABLE, ct, "Result")
    node = preview.show(on(ct, random_labels(1)))
    answer = on(ct, random_labels(2))
    compared = preview.compare(answer)
    if what == "another answer":
        preview.show(on(ct, random_labels(3)))
    elif what == "a hand":
        image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
        set_voxels(image, random_labels(4))
    elif what == "a deleted segment":
        node.GetSegmentation().RemoveSegment(segment_named(node, "liver"))
    else:
        scene.RemoveNode(node)
    node = preview.show(answer, compared)
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(2))
    preview.finish(on(ct, random_labels(5)))
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(5))
    preview.step.undo()
    assert not scene.IsNodePresent(node)


def test_room_that_was_made_is_where_the_first_answer_goes(scene):
    ct = add_ct(scene)
    former = write_segmentation(scene, on(ct, random_labels(0)), TABLE, ct, "Result")
    preview = Preview(scene, TABLE, ct, "Result", former)
    room = preview._room
    preview.make_room()
    preview.make_room()
    node = preview.show(on(ct, random_labels(1)))
    image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    assert image is room
    plain = write_segmentation(scene, on(ct, random_labels(1)), TABLE, ct, "Plain")
    other = plain.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    assert image.GetExtent() == other.GetExtent()
    assert image.GetScalarType() == other.GetScalarType()
    np.testing.assert_array_equal(oriented_affine(image), oriented_affine(other))
    preview.cancel()
    np.testing.assert_array_equal(read_mask(former, ct, TABLE).array, random_labels(0))
    # Another shape by the time the first answer comes.
    late = Preview(scene, TABLE, ct, "Late")
    ct.SetAndObserveImageData(vtk_image(np.zeros((2, 3, 4), np.float32)))
    small = np.ones((2, 3, 4), np.uint8)
    np.testing.assert_array_equal(read_mask(late.show(on(ct, small)), ct, TABLE).array, small)


def test_a_compared_answer_with_another_value_is_refused(scene):
    ct = add_ct(scene)
    preview = Preview(scene, TABLE, ct, "Result")
    with pytest.raises(LabelError, match="The mask holds the value 9"):
        preview.compare(on(ct, np.full(SHAPE, 9, np.uint8)))


def test_a_finished_preview_stays_and_is_undone_as_one(scene):
    ct = add_ct(scene)
    array = np.zeros(SHAPE, np.uint8)
    array[1:4, 2:6, 2:5] = 1
    node = write_segmentation(scene, on(ct, array), TABLE, ct, "Result", show_3d=True)
    preview = Preview(scene, TABLE, ct, "Result", node)
    preview.show(on(ct, random_labels(1)))
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")
    preview.finish(on(ct, random_labels(2)))
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(2))
    preview.step.undo()
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, array)
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_previews_survive_what_the_person_does(scene):
    ct = add_ct(scene, add_transform(scene, MOVE))
    preview = Preview(scene, TABLE, ct, "Result")
    first = preview.show(on(ct, random_labels(1)))
    # deletes a segment
    first.GetSegmentation().RemoveSegment(segment_named(first, "liver"))
    assert preview.show(on(ct, random_labels(2))) is first
    np.testing.assert_array_equal(read_mask(first, ct, TABLE).array, random_labels(2))
    # takes the segmentation out of the transform
    first.SetAndObserveTransformNodeID(None)
    assert preview.show(on(ct, random_labels(3))) is first
    np.testing.assert_array_equal(read_mask(first, ct, TABLE).array, random_labels(3))
    assert in_the_world(first, segment_named(first, "liver")) == positions(random_labels(3) == 1, MOVE @ OBLIQUE)
    # deletes all of it
    scene.RemoveNode(first)
    second = preview.show(on(ct, random_labels(4)))
    assert second is not first
    np.testing.assert_array_equal(read_mask(second, ct, TABLE).array, random_labels(4))
    # deletes the volume
    scene.RemoveNode(ct)
    with pytest.raises(InputError, match="'ct' is not in the scene any more"):
        preview.show(on(ct, random_labels(5)))
    preview.cancel()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_what_is_drawn_beside_a_preview_outlives_the_next_one(scene):
    """Segment Editor puts it into the image of the preview."""
    ct = add_ct(scene, add_transform(scene, MOVE))
    preview, free = Preview(scene, TABLE, ct, "Result"), random_labels(1) == 0
    node = preview.show(on(ct, random_labels(1)))
    identity = node.GetSegmentation().AddEmptySegment("mine", "by hand")
    paint(node, identity, free, OBLIQUE)
    for seed in (2, 3):
        answer = on(ct, random_labels(seed))
        assert preview.show(answer, preview.compare(answer)) is node
        np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, answer.array)
        np.testing.assert_array_equal(slicer_says(node, identity, ct), free)
    preview.cancel()
    assert node.GetSegmentation().GetSegmentIDs() == (identity,)
    np.testing.assert_array_equal(slicer_says(node, identity, ct), free)


# --- reading masks ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), affines, rigid, affine_transforms)
def test_masks_are_read_exactly_where_the_grids_are_one(headless, seed, own, first, second):
    scene = headless.scene
    scene.Clear(0)
    ct = add_ct(scene, add_transform(scene, first), own)
    array = random_labels(seed)
    masks = {label.name.upper(): array == label.value for label in TABLE.labels}
    local = np.linalg.inv(second) @ first @ own
    node = add_segmentation(scene, masks, local, parent=add_transform(scene, second))
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, array)


def test_a_segment_of_no_class_is_none_beside_an_empty_one(scene):
    """All values are those of the table but the first, which is of a structure that the table does not name."""
    ct = add_ct(scene)
    array = random_labels(3, classes=2)
    node = write_segmentation(scene, on(ct, array), TABLE, ct, "Result")
    table = LabelTable.from_names(["spleen", "left kidney", "Tumör links"])
    np.testing.assert_array_equal(read_mask(node, ct, table).array, np.where(array == 2, 2, 0))


def test_masks_of_other_grids_are_sampled_at_the_nearest_voxel(scene):
    ct = add_ct(scene, None, np.diag([1.0, 1, 1, 1]))
    coarse = np.zeros((3, 4, 5), bool)
    coarse[1, 1, 1] = True
    node = add_segmentation(scene, {"liver": coarse}, np.diag([2.0, 2, 2, 1]))
    read = read_mask(node, ct, TABLE).array == 1
    assert read[2, 2, 2]
    assert 1 <= read.sum() <= 8
    assert not read[:, :, 4:].any()


def test_masks_from_label_map_volumes(scene):
    ct = add_ct(scene, add_transform(scene, MOVE))
    array = random_labels(3)
    node = add_volume(scene, array.astype(np.int16), MOVE @ OBLIQUE, "m", kind="vtkMRMLLabelMapVolumeNode")
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, array)
    node = add_volume(scene, (array + 3).astype(np.int16), OBLIQUE, "m", kind="vtkMRMLLabelMapVolumeNode")
    with pytest.raises(LabelError, match="The mask holds the values 4, 5, 6"):
        read_mask(node, ct, TABLE)


@pytest.mark.parametrize("kind", ["Planar contour", "Closed surface", "Fractional labelmap"])
def test_structures_without_voxels_are_no_empty_masks(scene, kind):
    """As radiotherapy plans come out of DICOM; their measures would be those of nothing."""
    from vtkmodules.vtkFiltersSources import vtkSphereSource

    ct, sphere = add_ct(scene), vtkSphereSource()
    sphere.Update()
    shape = vtk_image(np.ones((2, 2, 2), np.uint8), slicer.vtkOrientedImageData)
    plan = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Plan")
    plan.GetSegmentation().SetSourceRepresentationName(kind)
    segment = slicer.vtkSegment()
    segment.SetName("liver")
    segment.AddRepresentation(kind, shape if kind == "Fractional labelmap" else sphere.GetOutput())
    assert plan.GetSegmentation().AddSegment(segment, "a")
    what = "a surface" if kind == "Closed surface" else f"made of '{kind}'"
    message = f"The segment 'liver' of 'Plan' is {what} without voxels. Create its binary labelmap first"
    with pytest.raises(InputError, match=message):
        read_mask(plan, ct, TABLE)
    with pytest.raises(InputError, match=message):
        read_scribbles(plan, ct, TABLE)


def test_what_is_wrong_with_masks(scene):
    ct = add_ct(scene)
    node = add_segmentation(scene, {"liver": random_labels(0) == 1, "left kidney": random_labels(0) <= 1}, OBLIQUE)
    with pytest.raises(LabelError, match="The segments 'liver' and 'left kidney' of 'S' overlap"):
        read_mask(node, ct, TABLE)
    foreign = add_segmentation(scene, {"bone": random_labels(0) == 1}, OBLIQUE)
    with pytest.raises(LabelError, match="No segment of 'S' has the name of a class; rename its segments to"):
        read_mask(foreign, ct, TABLE)
    add_segment(foreign, "x", "Liver", random_labels(0) == 2, OBLIQUE)
    assert named_classes(foreign, TABLE) == ("liver",)
    np.testing.assert_array_equal(read_mask(foreign, ct, TABLE).array == 1, random_labels(0) == 2)
    with pytest.raises(InputError, match="A segmentation of the scene was expected, got 'ct'"):
        read_mask(ct, ct, TABLE)
