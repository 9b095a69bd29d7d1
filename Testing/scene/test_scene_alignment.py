from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from scene_support import (
    RAS_TO_LPS,
    TABLE,
    add_bent_transform,
    add_segmentation,
    add_transform,
    add_volume,
    affine_transforms,
    affines,
    paint,
    rigid,
    segment_named,
    vtk_matrix,
)
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from CrossModalSegLib.errors import GeometryError, InputError
from CrossModalSegLib.scene.alignment import (
    alignment,
    apply_transform,
    nodes_under,
    registration_of,
    remove_transform,
)
from CrossModalSegLib.scene.change import Change
from CrossModalSegLib.scene.geometry import world_affine
from CrossModalSegLib.scene.scribbles import prepare_scribbles, read_scribbles
from CrossModalSegLib.scene.volumes import read_grid, write_volume
from grids import grid_affine

SHAPE = (5, 7, 9)
OBLIQUE = grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))
MOVE = grid_affine((1, 1, 1), (0.4, 0.1, -0.7), (15.0, -40.0, 8.0))
SMALL = grid_affine((1, 1, 1), (0.05, 0.02, -0.1), (3.0, -4.0, 2.0))


def add(scene, name="mr", parent=None, affine=OBLIQUE):
    return add_volume(scene, np.zeros(SHAPE, np.float32), affine, name, parent)


def test_alignment_respects_parent_transforms(scene):
    ct, mr = add(scene, "ct"), add(scene)
    assert (alignment(ct, mr).state, alignment(ct, mr).overlap) == ("same grid", 1.0)
    transform = add_transform(scene, MOVE)
    mr.SetAndObserveTransformNodeID(transform.GetID())
    assert alignment(ct, mr).state == "apart"
    ct.SetAndObserveTransformNodeID(transform.GetID())
    assert alignment(ct, mr).state == "same grid"
    half = np.eye(4)
    half[:3, 3] = 2 * OBLIQUE[:3, 0]
    mr.SetAndObserveTransformNodeID(add_transform(scene, MOVE @ half).GetID())
    found = alignment(ct, mr)
    assert found.state == "same patient space"
    assert found.overlap == pytest.approx(7 / 9)
    with pytest.raises(InputError, match="A volume of the scene was expected, got nothing"):
        alignment(ct, None)


@given(affines, affine_transforms, affine_transforms, rigid)
def test_the_movement_is_one_of_the_world_whatever_is_above(headless, own, outer, inner, movement):
    scene = headless.scene
    scene.Clear(0)
    mr = add(scene, parent=add_transform(scene, inner, add_transform(scene, outer), inverse=True), affine=own)
    other = add(scene, "other", mr.GetParentTransformNode(), own)
    above, before = mr.GetParentTransformNode(), world_affine(mr)
    node = apply_transform(scene, mr, movement)
    np.testing.assert_allclose(world_affine(mr), movement @ before, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(world_affine(other), before)
    assert node.GetParentTransformNode() is above
    remove_transform(scene, node)
    assert mr.GetParentTransformNode() is above
    np.testing.assert_array_equal(world_affine(mr), before)
    assert not scene.IsNodePresent(node)


def test_left_and_right_are_not_mixed_up(scene):
    """5 mm towards the patient's left is +x in LPS and -x in RAS."""
    mr = add(scene)
    shift = np.eye(4)
    shift[0, 3] = 5
    node = apply_transform(scene, mr, shift, "to the left")
    matrix = vtkMatrix4x4()
    node.GetMatrixTransformToWorld(matrix)
    assert (matrix.GetElement(0, 3), node.GetName()) == (-5, "to the left")


def test_strokes_and_results_of_the_moving_volume_move_along(scene):
    above = add_transform(scene, MOVE)
    mr = add(scene, parent=above)
    scribbles = prepare_scribbles(scene, mr, TABLE)
    mask = np.zeros(SHAPE, bool)
    mask[1, 2, 3] = True
    paint(scribbles, segment_named(scribbles, "liver"), mask, OBLIQUE)
    probability = write_volume(scene, read_grid(mr).with_array(np.zeros(SHAPE, np.float32)), "p", mr)
    elsewhere = add_segmentation(scene, {"liver": mask}, OBLIQUE, "free")
    elsewhere.SetReferenceImageGeometryParameterFromVolumeNode(mr)
    before = read_scribbles(scribbles, mr, TABLE).array
    change = Change(scene)
    node = apply_transform(scene, mr, SMALL, change=change)
    assert set(nodes_under(scene, node)) == {mr, scribbles, probability}
    np.testing.assert_array_equal(read_scribbles(scribbles, mr, TABLE).array, before)
    assert elsewhere.GetParentTransformNode() is None
    change.undo()
    assert {each.GetParentTransformNode() for each in (mr, scribbles, probability)} == {above}
    assert not scene.IsNodePresent(node)


def test_registering_again_goes_on_from_where_it_was(scene):
    mr = add(scene, parent=add_transform(scene, MOVE))
    before = world_affine(mr)
    first = apply_transform(scene, mr, SMALL)
    assert registration_of(mr) is first
    change = Change(scene)
    assert apply_transform(scene, mr, MOVE, change=change) is first
    np.testing.assert_allclose(world_affine(mr), MOVE @ SMALL @ before, atol=1e-9)
    change.undo()
    np.testing.assert_allclose(world_affine(mr), SMALL @ before, atol=1e-9)
    # What the person adjusted by hand is kept and moved on.
    by_hand = grid_affine((1, 1, 1), (0, 0, 0.2), (1, 2, 3))
    first.SetMatrixTransformToParent(vtk_matrix(by_hand))
    apply_transform(scene, mr, SMALL)
    expected = SMALL @ RAS_TO_LPS @ MOVE @ by_hand @ OBLIQUE
    np.testing.assert_allclose(world_affine(mr), expected, atol=1e-9)


def test_a_registration_that_holds_another_volume_is_left_alone(scene):
    mr = add(scene)
    first = apply_transform(scene, mr, SMALL)
    other = add(scene, "other", first)
    before, others = world_affine(mr), world_affine(other)
    second = apply_transform(scene, mr, MOVE)
    assert second is not first
    assert second.GetParentTransformNode() is first
    np.testing.assert_allclose(world_affine(mr), MOVE @ before, atol=1e-9)
    np.testing.assert_array_equal(world_affine(other), others)
    remove_transform(scene, first)
    np.testing.assert_array_equal(world_affine(other), RAS_TO_LPS @ OBLIQUE)
    assert second.GetParentTransformNode() is None


def test_undo_leaves_what_the_person_moved_elsewhere(scene):
    mr, elsewhere = add(scene), add_transform(scene, MOVE)
    change = Change(scene)
    apply_transform(scene, mr, SMALL, change=change)
    mr.SetAndObserveTransformNodeID(elsewhere.GetID())
    change.undo()
    assert mr.GetParentTransformNode() is elsewhere


def test_undo_leaves_what_the_person_put_under_the_registration_where_the_volume_is(scene):
    above = add_transform(scene, MOVE)
    mr, change = add(scene, parent=above), Change(scene)
    made = apply_transform(scene, mr, SMALL, change=change)
    mine = add(scene, "drawn by hand", made)
    change.undo()
    assert mr.GetParentTransformNode() is mine.GetParentTransformNode() is above
    assert not scene.IsNodePresent(made)


def test_what_cannot_be_applied(scene):
    mr = add(scene)
    before = scene.GetNumberOfNodes()
    for matrix in (np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 1, 0, 1]), np.ones((4, 4))):
        with pytest.raises(GeometryError, match="A movement should be a 4 by 4 matrix"):
            apply_transform(scene, mr, matrix)
    mr.SetAndObserveTransformNodeID(add_bent_transform(scene).GetID())
    with pytest.raises(GeometryError, match="not linear"):
        apply_transform(scene, mr, SMALL)
    assert scene.GetNumberOfNodes() == before + 1
    mr.SetAndObserveTransformNodeID(None)
    scene.RemoveNode(mr)
    with pytest.raises(InputError, match="'mr' is not in the scene any more"):
        apply_transform(scene, mr, SMALL)
