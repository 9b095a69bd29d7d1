"""Scribbles read voxel by voxel on oblique, anisotropic volumes, whatever transforms lie above them."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from hypothesis import assume, given
from hypothesis import strategies as st
from scene_support import (
    RAS_TO_LPS,
    TABLE,
    add_bent_transform,
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

from CrossModalSegLib.errors import GeometryError, InputError, LabelError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.change import Change
from CrossModalSegLib.scene.images import voxels
from CrossModalSegLib.scene.nodes import SCRIBBLES, role
from CrossModalSegLib.scene.scribbles import (
    BACKGROUND,
    add_auto_background,
    copy_scribbles,
    count_scribbles,
    prepare_scribbles,
    read_complete_scribbles,
    read_scribbles,
)
from CrossModalSegLib.scene.stroke_layer import find_layer
from CrossModalSegLib.scene.strokes import find_strokes, marks
from CrossModalSegLib.scene.volumes import read_grid
from CrossModalSegLib.terminology import BACKGROUND as BACKGROUND_CODE
from CrossModalSegLib.volume import Volume
from grids import grid_affine

SHAPE = (5, 7, 9)
OBLIQUE = grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))
MOVE = grid_affine((1, 1, 1), (0.4, 0.1, -0.7), (15.0, -40.0, 8.0))
OTHER_MOVE = grid_affine((1, 1, 1), (-0.2, 0.6, 0.1), (-3.0, 90.0, 21.0))
EMPTY = np.full(SHAPE, 255, np.uint8)
NAMES = (*TABLE.names, BACKGROUND)


def add_ct(scene, parent=None, affine=OBLIQUE, shape=SHAPE, name="ct"):
    return add_volume(scene, np.zeros(shape, np.float32), affine, name, parent)


def masks_of(scribbles: np.ndarray) -> dict[str, np.ndarray]:
    """One mask a segment of an internal scribble array."""
    return {name: scribbles == value for name, value in zip(NAMES, (1, 2, 3, 0))}


def at(*indices: tuple[int, int, int], shape=SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for index in indices:
        mask[index] = True
    return mask


def random_scribbles(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([255] * 6 + [0, 1, 2, 3], np.uint8), SHAPE)


scribbles = st.builds(random_scribbles, st.integers(0, 2**31))


# --- reading: where ---------------------------------------------------------------------------------------------------


@given(scribbles, affines, affine_transforms, rigid, st.sampled_from(["same", "neither", "volume", "both", "chain"]))
def test_exact_voxels_under_every_combination_of_parent_transforms(headless, expected, own, first, second, case):
    """The segmentation is laid onto the volume in the world; only the transforms above the two differ."""
    scene = headless.scene
    scene.Clear(0)
    above_volume = above_segmentation = None
    if case in ("volume", "both"):
        above_volume = add_transform(scene, first)
    if case == "both":
        above_segmentation = add_transform(scene, second, inverse=True)
    if case == "chain":
        above_volume = add_transform(scene, first, add_transform(scene, second))
        above_segmentation = above_volume.GetParentTransformNode()
    if case == "same":
        above_volume = above_segmentation = add_transform(scene, first)
    to_world = {"same": first, "neither": np.eye(4), "volume": first, "both": first, "chain": second @ first}[case]
    back = {"same": first, "neither": np.eye(4), "volume": np.eye(4), "both": second, "chain": second}[case]
    node = add_segmentation(scene, masks_of(expected), np.linalg.inv(back) @ to_world @ own, parent=above_segmentation)
    read = read_scribbles(node, add_ct(scene, above_volume, own), TABLE)
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array, expected)
    np.testing.assert_allclose(read.affine, RAS_TO_LPS @ to_world @ own, rtol=0, atol=1e-7)


@pytest.mark.parametrize("above", [(None, None), (MOVE, MOVE), (MOVE, None), (None, MOVE)])
def test_slicer_itself_sees_the_same_voxels(scene, above):
    """With two different transforms its own export is off by a voxel, so it can say nothing about that case."""
    transforms = [None if matrix is None else add_transform(scene, matrix) for matrix in above]
    to_world = [np.eye(4) if matrix is None else matrix for matrix in above]
    ct = add_ct(scene, transforms[0])
    mask = np.random.default_rng(0).random(SHAPE) < 0.2
    local = np.linalg.inv(to_world[1]) @ to_world[0] @ OBLIQUE
    node = add_segmentation(scene, {"liver": mask}, local, parent=transforms[1])
    np.testing.assert_array_equal(slicer_says(node, "s0", ct), mask)
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array == 1, mask)


def test_strokes_painted_by_the_segment_editor_s_filter(scene):
    """Slicer crops a layer to what is painted, and keeps the segments in one shared image."""
    ct = add_ct(scene, add_transform(scene, MOVE))
    node = prepare_scribbles(scene, ct, TABLE)
    liver, kidney, background = at((1, 2, 3), (1, 2, 4)), at((4, 6, 8)), at((0, 0, 0))
    for name, mask in (("liver", liver), ("left kidney", kidney), (BACKGROUND, background)):
        paint(node, segment_named(node, name), mask, OBLIQUE)
    expected = EMPTY.copy()
    expected[liver], expected[kidney], expected[background] = 1, 2, 0
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, expected)


def test_a_mirrored_or_shifted_reading_would_be_noticed(scene):
    """One voxel in a corner of a box without any symmetry."""
    ct = add_ct(scene, add_transform(scene, MOVE, inverse=True))
    node = add_segmentation(scene, {"liver": at((4, 1, 7))}, OBLIQUE, parent=ct.GetParentTransformNode())
    assert np.argwhere(read_scribbles(node, ct, TABLE).array == 1).tolist() == [[4, 1, 7]]


@given(st.data())
def test_no_voxel_is_lost_on_a_coarser_or_turned_grid(headless, data):
    """Thin strokes of any direction on a fine grid mark the coarse voxels that their centres fall into."""
    scene = headless.scene
    scene.Clear(0)
    turn = data.draw(st.tuples(*[st.floats(-np.pi, np.pi)] * 3))
    fine = grid_affine((0.5, 0.6, 0.7), turn, (0, 0, 0))
    coarse = grid_affine((6.0, 3.0, 9.0), (0.2, 0.1, 0.4), (0, 0, 0))
    fine[:3, 3] = coarse[:3] @ (4, 4, 4, 1) - fine[:3, :3] @ (10, 10, 10)
    mask = np.zeros((21, 21, 21), bool)
    mask[tuple(data.draw(st.tuples(st.integers(0, 20), st.integers(0, 20))))] = True
    expected = np.zeros((9, 9, 9), bool)
    for k, j, i in np.argwhere(mask):
        position = np.linalg.inv(coarse) @ fine @ (i, j, k, 1)
        assume(np.abs(position[:3] - np.floor(position[:3]) - 0.5).min() > 1e-6)
        expected[tuple(np.rint(position[2::-1]).astype(int))] = True
    node = add_segmentation(scene, {"liver": mask}, fine)
    read = read_scribbles(node, add_ct(scene, None, coarse, (9, 9, 9)), TABLE)
    assert expected.any()
    np.testing.assert_array_equal(read.array == 1, expected)


def test_a_sagittal_stroke_thinner_than_a_slice_is_kept(scene):
    """Trap: a stroke drawn off-axially, one voxel of 1 mm in slices of 6 mm, resampled by Slicer, vanishes."""
    ct = add_ct(scene, None, np.diag([1.0, 1, 6, 1]), (4, 8, 8))
    fine = np.zeros((24, 8, 8), bool)
    fine[1, 2, 3] = True  # at z = 1 mm, far from the slices' middles at 0 and 6 mm
    node = add_segmentation(scene, {"liver": fine}, np.diag([1.0, 1, 1, 1]))
    assert not slicer_says(node, "s0", ct).any()
    assert np.argwhere(read_scribbles(node, ct, TABLE).array == 1).tolist() == [[0, 2, 3]]


def test_on_a_coarser_grid_a_class_wins_over_background_and_the_smaller_value_over_the_larger(scene):
    ct = add_ct(scene, None, np.diag([4.0, 4, 4, 1]), (2, 2, 2))
    fine = np.diag([1.0, 1, 1, 1])
    shape = (5, 5, 5)
    segments = {
        BACKGROUND: at((0, 0, 0), (4, 4, 4), shape=shape),
        "left kidney": at((0, 0, 1), (0, 4, 1), shape=shape),
        "liver": at((0, 1, 0), (0, 4, 0), shape=shape),
    }
    read = read_scribbles(add_segmentation(scene, segments, fine), ct, TABLE).array
    expected = np.full((2, 2, 2), 255, np.uint8)
    expected[0, 0, 0], expected[0, 1, 0], expected[1, 1, 1] = 1, 1, 0
    np.testing.assert_array_equal(read, expected)


def test_images_that_slicer_cropped_lie_where_their_indices_say(scene):
    """The first voxel of a painted box has the index (5, 4, 3), and on voxels four times as large (1, 1, 1)."""
    node = add_segmentation(scene, {"liver": at((0, 0, 0), shape=(2, 2, 2))}, np.eye(4))
    node.GetSegmentation().GetSegment("s0").GetRepresentation("Binary labelmap").SetExtent(5, 6, 4, 5, 3, 4)
    ct = add_ct(scene, None, np.diag([4.0, 4, 4, 1]), (2, 2, 2))
    assert np.argwhere(read_scribbles(node, ct, TABLE).array == 1).tolist() == [[1, 1, 1]]


def test_strokes_outside_of_the_volume_are_an_error(scene):
    ct = add_ct(scene)
    node = add_segmentation(scene, {"liver": at((1, 1, 1), (1, 1, 2))}, MOVE @ OBLIQUE)
    with pytest.raises(GeometryError, match="2 of the 2 voxels drawn in 'liver' of 'S' lie outside of 'ct'"):
        read_scribbles(node, ct, TABLE)
    shifted = OBLIQUE.copy()
    shifted[:3, 3] += 2 * OBLIQUE[:3, 0]
    node = add_segmentation(scene, {"liver": at((1, 1, 6), (1, 1, 8))}, shifted, "T")
    with pytest.raises(GeometryError, match="1 of the 2 voxels"):
        read_scribbles(node, ct, TABLE)


def test_a_bent_transform_has_to_be_hardened(scene):
    ct = add_ct(scene)
    node = add_segmentation(scene, {"liver": at((1, 1, 1))}, OBLIQUE, parent=add_bent_transform(scene))
    with pytest.raises(GeometryError, match="'S' lies under a transform that is not linear"):
        read_scribbles(node, ct, TABLE)


# --- reading: what ----------------------------------------------------------------------------------------------------


def test_overlapping_strokes_are_refused_naming_both(scene):
    ct = add_ct(scene)
    segments = {"liver": at((1, 1, 1), (2, 2, 2)), "left kidney": at((2, 2, 2), (3, 3, 3))}
    with pytest.raises(LabelError, match="The segments 'liver' and 'left kidney' of 'S' overlap in 1 voxels"):
        read_scribbles(add_segmentation(scene, segments, OBLIQUE), ct, TABLE)


def test_strokes_of_other_layers_overlap_whatever_their_labels(scene):
    node = add_segmentation(scene, {"liver": at((1, 1, 1))}, OBLIQUE)
    add_segment(node, "x", "left kidney", 2 * at((1, 1, 1)).astype(np.uint8), OBLIQUE).SetLabelValue(2)
    with pytest.raises(LabelError, match="'liver' and 'left kidney' of 'S' overlap in 1 voxels"):
        read_scribbles(node, add_ct(scene), TABLE)


def test_overlaps_are_seen_on_the_strokes_own_grid(scene):
    """On a much coarser volume, two strokes in one place still overlap, and two side by side do not."""
    ct = add_ct(scene, None, grid_affine((50, 50, 50), (0, 0, 0), (-75, -75, -75)), (4, 4, 4))
    node = add_segmentation(
        scene, {"liver": at((1, 1, 1)), BACKGROUND: at((1, 1, 1))}, grid_affine((1, 2, 3), (1, 2, 3), (0, 0, 0))
    )
    with pytest.raises(LabelError, match="'liver' and 'Background'.*overlap"):
        read_scribbles(node, ct, TABLE)


def test_layers_of_different_grids_overlap_where_they_meet_in_the_volume(scene):
    ct = add_ct(scene)
    node = add_segmentation(scene, {"liver": at((1, 1, 1))}, OBLIQUE)
    moved = OBLIQUE.copy()
    moved[:3, 3] += 0.1
    add_segment(node, "x", "left kidney", at((1, 1, 1)), moved)
    with pytest.raises(LabelError, match="'liver' and 'left kidney'"):
        read_scribbles(node, ct, TABLE)
    node = add_segmentation(scene, {"liver": at((1, 1, 1))}, OBLIQUE, "T")
    add_segment(node, "x", "left kidney", at((1, 1, 2)), moved)
    read = read_scribbles(node, ct, TABLE).array
    assert (read[1, 1, 1], read[1, 1, 2], (read != 255).sum()) == (1, 2, 2)


def test_two_segments_of_one_class_may_overlap(scene):
    node = add_segmentation(scene, {"liver": at((1, 1, 1)), "Liver": at((1, 1, 1), (1, 1, 2))}, OBLIQUE)
    assert (read_scribbles(node, add_ct(scene), TABLE).array == 1).sum() == 2


def test_hidden_reordered_and_renamed_segments(scene):
    ct = add_ct(scene)
    node = prepare_scribbles(scene, ct, TABLE)
    for value, name in enumerate(NAMES):
        paint(node, segment_named(node, name), at((0, 0, value)), OBLIQUE)
    before = read_scribbles(node, ct, TABLE).array
    assert before[0, 0, :4].tolist() == [1, 2, 3, 0]
    segmentation = node.GetSegmentation()
    segmentation.ReorderSegments(list(reversed(segmentation.GetSegmentIDs())))
    node.GetDisplayNode().SetSegmentVisibility(segment_named(node, "liver"), False)
    node.GetDisplayNode().SetVisibility(False)
    segmentation.GetSegment(segment_named(node, "left kidney")).SetName("Niere | links: ü")
    segmentation.GetSegment(segment_named(node, BACKGROUND)).SetName("Rest")
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, before)


def test_a_copy_of_a_segment_stands_for_its_own_name(scene):
    ct = add_ct(scene)
    node = prepare_scribbles(scene, ct, TABLE)
    paint(node, segment_named(node, "liver"), at((0, 0, 0)), OBLIQUE)
    copy = slicer.vtkSegment()
    copy.DeepCopy(node.GetSegmentation().GetSegment(segment_named(node, "liver")))
    node.GetSegmentation().RemoveSegment(segment_named(node, "left kidney"))
    copy.SetName("left kidney")
    node.GetSegmentation().AddSegment(copy, "another")
    paint(node, segment_named(node, "liver"), at((1, 1, 1)), OBLIQUE)
    node.GetSegmentation().RemoveSegment(segment_named(node, "liver"))
    assert set(np.unique(read_scribbles(node, ct, TABLE).array)) == {2, 255}


def test_a_segment_that_was_renamed_to_another_class_is_refused(scene):
    ct = add_ct(scene)
    node = prepare_scribbles(scene, ct, TABLE)
    paint(node, segment_named(node, "liver"), at((0, 0, 0)), OBLIQUE)
    node.GetSegmentation().GetSegment(segment_named(node, "liver")).SetName("Left Kidney")
    with pytest.raises(LabelError, match="'Left Kidney' of 'Scribbles' was made for 'liver'"):
        read_scribbles(node, ct, TABLE)


def test_unknown_segments_matter_only_when_they_hold_strokes(scene):
    ct = add_ct(scene)
    node = add_segmentation(scene, {"liver": at((0, 0, 0)), "Segment_1": np.zeros(SHAPE, bool)}, OBLIQUE)
    assert (read_scribbles(node, ct, TABLE).array != 255).sum() == 1
    add_segment(node, "z", "Segment_2", at((1, 1, 1)), OBLIQUE)
    with pytest.raises(LabelError, match="'Segment_2' of 'S' holds strokes but stands for no class; rename"):
        read_scribbles(node, ct, TABLE)
    assert count_scribbles(node, ct, TABLE)["liver"] == 1


def test_nothing_drawn_gives_nothing_labelled(scene):
    ct = add_ct(scene)
    node = prepare_scribbles(scene, ct, TABLE)
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, EMPTY)
    np.testing.assert_array_equal(
        read_scribbles(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "e"), ct, TABLE).array, EMPTY
    )
    assert copy_scribbles(node, ct, TABLE).missing == list(NAMES)


def test_what_cannot_be_read(scene):
    ct = add_ct(scene)
    with pytest.raises(InputError, match="A segmentation of the scene was expected, got 'ct'"):
        read_scribbles(ct, ct, TABLE)
    node = add_segmentation(scene, {"liver": at((1, 1, 1))}, OBLIQUE)
    with pytest.raises(InputError, match="A volume of the scene was expected, got 'S'"):
        read_scribbles(node, node, TABLE)
    from vtkmodules.vtkFiltersSources import vtkSphereSource

    sphere = vtkSphereSource()
    sphere.Update()
    surface = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "M")
    surface.SetSourceRepresentationToClosedSurface()
    surface.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "liver")
    with pytest.raises(InputError, match="The segment 'liver' of 'M' is a surface without voxels"):
        read_scribbles(surface, ct, TABLE)


def test_counts_are_voxels_of_the_volume(scene):
    ct = add_ct(scene)
    segments = {"liver": at((1, 1, 1), (1, 1, 2)), "left kidney": at((1, 1, 2)), BACKGROUND: at((0, 0, 0))}
    node = add_segmentation(scene, segments, OBLIQUE)
    assert count_scribbles(node, ct, TABLE) == {"liver": 2, "left kidney": 1, "Tumör links": 0, BACKGROUND: 1}
    coarse = add_ct(scene, None, OBLIQUE @ np.diag([2.0, 2, 2, 1]), (3, 4, 5), "coarse")
    assert count_scribbles(node, coarse, TABLE)["liver"] in (1, 2)


@given(scribbles, affines, rigid, st.tuples(*[st.integers(0, 2)] * 6), st.booleans())
def test_strokes_of_one_image_are_read_without_indices(headless, expected, own, above, margins, is_same):
    """Slicer keeps only the box around what is drawn; what is read is the same by the way that suits all images."""
    scene = headless.scene
    scene.Clear(0)
    ct = add_ct(scene, add_transform(scene, above), own)
    node = prepare_scribbles(scene, ct, TABLE)
    if not is_same:
        node.SetAndObserveTransformNodeID(None)
    lattice = own if is_same else above @ own
    k0, k1, j0, j1, i0, i1 = margins
    box = (slice(k0, SHAPE[0] - k1), slice(j0, SHAPE[1] - j1), slice(i0, SHAPE[2] - i1))
    shift = np.eye(4)
    shift[:3, 3] = i0, j0, k0
    for name, mask in masks_of(expected).items():
        if mask[box].any():
            paint(node, segment_named(node, name), mask[box], lattice @ shift)
    cropped = EMPTY.copy()
    cropped[box] = expected[box]
    assume((cropped != 255).any())
    layer = find_layer(node, ct, TABLE)
    assert layer is not None
    np.testing.assert_array_equal(layer.painted(SHAPE), cropped)
    strokes = find_strokes(node, TABLE)
    found = marks(strokes, node, ct)
    general = EMPTY.copy()
    general.ravel()[found.flat] = found.values
    np.testing.assert_array_equal(general, cropped)
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, cropped)
    counts = {name: int((cropped == value).sum()) for name, value in zip(NAMES, (1, 2, 3, 0))}
    assert count_scribbles(node, ct, TABLE) == counts
    assert copy_scribbles(node, ct, TABLE).missing == [name for name, count in counts.items() if not count]


def test_what_is_not_so_simple_is_left_to_indices(scene):
    ct = add_ct(scene)
    first, second = at((1, 1, 1)), at((3, 2, 2))
    assert find_layer(add_segmentation(scene, {"liver": first}, OBLIQUE), ct, TABLE) is not None
    assert find_layer(add_segmentation(scene, {"liver": first, "Segment_1": second}, OBLIQUE), ct, TABLE) is None
    assert find_layer(add_segmentation(scene, {"liver": first, "left kidney": second}, OBLIQUE), ct, TABLE) is None
    assert find_layer(add_segmentation(scene, {"liver": first & second}, OBLIQUE), ct, TABLE) is None
    half = np.eye(4)
    half[:3, 3] = 0.5, 0, 0
    finer, beyond = OBLIQUE @ half @ np.diag([0.5, 1, 1, 1]), OBLIQUE @ (2 * half - np.eye(4))
    for lattice in (OBLIQUE @ half, finer, beyond):
        assert find_layer(add_segmentation(scene, {"liver": first}, lattice), ct, TABLE) is None
    node = add_segmentation(scene, {"liver": first}, OBLIQUE)
    image = vtk_image(first.astype(np.int16), slicer.vtkOrientedImageData)
    image.SetImageToWorldMatrix(vtk_matrix(OBLIQUE))
    node.GetSegmentation().GetNthSegment(0).AddRepresentation("Binary labelmap", image)
    assert find_layer(node, ct, TABLE) is None
    assert count_scribbles(node, ct, TABLE)["liver"] == 1
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, np.where(first, 1, 255))


def test_a_segment_of_no_class_in_the_same_image_is_named_only_where_it_has_strokes(scene):
    ct = add_ct(scene)
    node = prepare_scribbles(scene, ct, TABLE)
    paint(node, segment_named(node, "liver"), at((1, 1, 1)), OBLIQUE)
    other = node.GetSegmentation().AddEmptySegment("x", "Segment_1")
    expected = np.where(at((1, 1, 1)), 1, 255)
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, expected)
    assert find_layer(node, ct, TABLE) is not None
    paint(node, other, at((2, 2, 2)), OBLIQUE)
    with pytest.raises(LabelError, match="'Segment_1' of 'Scribbles' holds strokes but stands for no class; rename"):
        read_scribbles(node, ct, TABLE)


def test_a_copy_stays_as_it_was_when_it_was_taken(scene):
    ct = add_ct(scene)
    node = prepare_scribbles(scene, ct, TABLE)
    paint(node, segment_named(node, "liver"), at((1, 1, 1)), OBLIQUE)
    copy = copy_scribbles(node, ct, TABLE)
    voxels(node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap"))[:] = 2
    scene.Clear(0)
    np.testing.assert_array_equal(copy.volume().array, np.where(at((1, 1, 1)), 1, 255))


def test_what_is_not_scribbled_is_named(scene):
    ct = add_ct(scene)
    node = add_segmentation(scene, {"liver": at((1, 1, 1)), "left kidney": at((1, 1, 2))}, OBLIQUE)
    assert copy_scribbles(node, ct, TABLE).missing == ["Tumör links", BACKGROUND]
    with pytest.raises(LabelError, match="no scribble of Tumör links, Background in 'S' on 'ct'"):
        read_complete_scribbles(node, ct, TABLE)
    with pytest.raises(LabelError, match="no scribble of Tumör links in 'S' on 'ct'"):
        read_complete_scribbles(node, ct, TABLE, background=False)
    add_segment(node, "t", "Tumör links", at((1, 2, 2)), OBLIQUE)
    strokes = read_complete_scribbles(node, ct, TABLE, background=False)
    np.testing.assert_array_equal(strokes.array, read_scribbles(node, ct, TABLE).array)


# --- preparing --------------------------------------------------------------------------------------------------------


def test_prepared_segments(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    ct = add_ct(scene, add_transform(scene, MOVE))
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "patient")
    hierarchy.CreateItem(folder, ct)
    node = prepare_scribbles(scene, ct, TABLE, "My strokes")
    segments = [node.GetSegmentation().GetNthSegment(index) for index in range(4)]
    assert node.GetSegmentation().GetNumberOfSegments() == 4
    assert [segment.GetName() for segment in segments] == list(NAMES)
    for segment, label in zip(segments, TABLE.labels):
        assert tuple(round(255 * part) for part in segment.GetColor()) == label.color
        assert segment.GetTerminology() == label.terminology
    assert segments[3].GetTerminology() == BACKGROUND_CODE
    assert max(segments[3].GetColor()) > 0.5
    assert node.GetTransformNodeID() == ct.GetTransformNodeID()
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is ct
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == folder
    assert role(node) == SCRIBBLES


def test_preparing_again_adds_only_what_is_missing(scene):
    ct = add_ct(scene)
    node = prepare_scribbles(scene, ct, TABLE)
    paint(node, segment_named(node, "liver"), at((1, 2, 3)), OBLIQUE)
    node.GetSegmentation().GetSegment(segment_named(node, "liver")).SetName("Leber")
    node.GetSegmentation().GetSegment(segment_named(node, "Leber")).SetColor(0, 0, 1)
    node.GetSegmentation().RemoveSegment(segment_named(node, "left kidney"))
    before = read_scribbles(node, ct, TABLE).array
    assert prepare_scribbles(scene, ct, TABLE) is node
    names = [node.GetSegmentation().GetNthSegment(index).GetName() for index in range(4)]
    assert names == ["Leber", "Tumör links", BACKGROUND, "left kidney"]
    assert node.GetSegmentation().GetSegment(segment_named(node, "Leber")).GetColor() == (0, 0, 1)
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, before)


def test_a_segmentation_of_one_s_own_can_be_taken(scene):
    ct = add_ct(scene)
    own = add_segmentation(scene, {"LIVER": at((1, 1, 1))}, OBLIQUE, "own", add_transform(scene, np.eye(4)))
    transform = own.GetTransformNodeID()
    assert prepare_scribbles(scene, ct, TABLE, into=own) is own
    assert own.GetSegmentation().GetNumberOfSegments() == 4
    assert own.GetTransformNodeID() == transform
    own.GetSegmentation().GetSegment("s0").SetName("renamed now")
    assert (read_scribbles(own, ct, TABLE).array == 1).sum() == 1


def test_other_volumes_and_names_get_scribbles_of_their_own(scene):
    ct, mr = add_ct(scene), add_ct(scene, name="mr")
    nodes = [
        prepare_scribbles(scene, ct, TABLE),
        prepare_scribbles(scene, mr, TABLE),
        prepare_scribbles(scene, ct, TABLE, "second"),
    ]
    assert len({node.GetID() for node in nodes}) == 3


def test_another_table_in_the_same_scribbles(scene):
    ct = add_ct(scene)
    node = prepare_scribbles(scene, ct, TABLE)
    table = LabelTable.from_names(["spleen", "Tumör links"])
    assert prepare_scribbles(scene, ct, table) is node
    paint(node, segment_named(node, "Tumör links"), at((1, 1, 1)), OBLIQUE)
    assert read_scribbles(node, ct, table).array[1, 1, 1] == 2
    assert read_scribbles(node, ct, TABLE).array[1, 1, 1] == 3


def test_what_cannot_be_prepared(scene):
    before = scene.GetNumberOfNodes()
    with pytest.raises(LabelError, match="'Background' cannot be a class"):
        prepare_scribbles(scene, None, LabelTable.from_names(["background"]))
    with pytest.raises(InputError, match="A volume of the scene was expected, got nothing"):
        prepare_scribbles(scene, None, TABLE)
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "new")
    with pytest.raises(InputError, match="'new' holds no voxels"):
        prepare_scribbles(scene, empty, TABLE)
    assert scene.GetNumberOfNodes() == before + 1


# --- automatic background ---------------------------------------------------------------------------------------------


def proposal(ct, *indices) -> Volume:
    grid = read_grid(ct)
    return grid.with_array(at(*indices, shape=grid.shape).astype(np.uint8))


@pytest.mark.parametrize("case", ["same", "different", "none"])
def test_proposed_background_is_drawn_only_where_nothing_is(scene, case):
    ct = add_ct(scene, None if case == "none" else add_transform(scene, MOVE))
    node = prepare_scribbles(scene, ct, TABLE)
    local = OBLIQUE
    if case == "different":
        node.SetAndObserveTransformNodeID(add_transform(scene, OTHER_MOVE).GetID())
        local = np.linalg.inv(OTHER_MOVE) @ MOVE @ OBLIQUE
    liver, background = at((2, 3, 4), (2, 3, 5)), at((1, 1, 1))
    paint(node, segment_named(node, "liver"), liver, local)
    paint(node, segment_named(node, BACKGROUND), background, local)
    layers = node.GetSegmentation().GetNumberOfLayers()
    change = Change(scene)
    added = add_auto_background(node, ct, TABLE, proposal(ct, (0, 0, 0), (4, 6, 8), (2, 3, 4), (1, 1, 1)), change)
    assert added == 2
    expected = EMPTY.copy()
    expected[liver], expected[background], expected[0, 0, 0], expected[4, 6, 8] = 1, 0, 0, 0
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, expected)
    assert node.GetSegmentation().GetNumberOfLayers() == layers
    if case != "different":
        np.testing.assert_array_equal(slicer_says(node, segment_named(node, BACKGROUND), ct), expected == 0)
    # Undo keeps what was drawn since.
    paint(node, segment_named(node, "left kidney"), at((3, 0, 0)), local)
    change.undo()
    expected[0, 0, 0] = expected[4, 6, 8] = 255
    expected[3, 0, 0] = 2
    np.testing.assert_array_equal(read_scribbles(node, ct, TABLE).array, expected)


def test_proposed_background_into_empty_scribbles(scene):
    ct = add_ct(scene, add_transform(scene, MOVE))
    node = prepare_scribbles(scene, ct, TABLE)
    assert add_auto_background(node, ct, TABLE, proposal(ct)) == 0
    assert add_auto_background(node, ct, TABLE, proposal(ct, (1, 2, 3))) == 1
    paint(node, segment_named(node, "liver"), at((4, 4, 4)), OBLIQUE)
    read = read_scribbles(node, ct, TABLE).array
    assert (read[1, 2, 3], read[4, 4, 4], (read != 255).sum()) == (0, 1, 2)


def test_background_is_not_drawn_into_scribbles_of_another_grid(scene):
    ct = add_ct(scene)
    other = OBLIQUE.copy()
    other[:3, 3] += 0.3
    node = add_segmentation(scene, {"liver": at((2, 2, 2)), BACKGROUND: at((1, 1, 1))}, other)
    with pytest.raises(GeometryError, match="'S' was drawn on another grid than that of 'ct'"):
        add_auto_background(node, ct, TABLE, proposal(ct, (0, 0, 0)))
    with pytest.raises(GeometryError, match="'the proposed background'.*should share one grid|should share one grid"):
        add_auto_background(node, ct, TABLE, Volume(np.zeros(SHAPE, np.uint8), np.eye(4)))
    without = add_segmentation(scene, {"liver": at((2, 2, 2))}, OBLIQUE, "W")
    with pytest.raises(LabelError, match="'W' has no segment 'Background'"):
        add_auto_background(without, ct, TABLE, proposal(ct, (0, 0, 0)))
