"""World coordinates, against arithmetic written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scene_support import RAS_TO_LPS, add_bent_transform, add_transform, add_volume, affine_transforms, affines, rigid

from CrossModalSegLib.errors import GeometryError
from CrossModalSegLib.scene.geometry import affine_below, from_vtk, movement_to_ras, to_vtk, world_affine
from grids import grid_affine

BOX = np.zeros((2, 3, 4), np.float32)


def test_without_a_transform_the_world_is_the_volume_s_matrix_with_x_and_y_negated(scene):
    matrix = np.array([[2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    expected = np.array([[-2.0, 0, 0, -10], [0, -3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])
    assert np.array_equal(world_affine(add_volume(scene, BOX, matrix)), expected)


def test_a_shift_to_the_right_is_a_shift_to_minus_x_in_lps(scene):
    shift = np.eye(4)
    shift[0, 3] = 5
    node = add_volume(scene, BOX, np.eye(4), parent=add_transform(scene, shift))
    assert world_affine(node)[:3, 3].tolist() == [-5, 0, 0]


@given(affines, rigid, affine_transforms, rigid, st.tuples(*[st.booleans()] * 3))
def test_chains_of_transforms_stored_either_way(headless, own, first, second, third, inverse):
    scene = headless.scene
    scene.Clear(0)
    outer = add_transform(scene, first, inverse=inverse[0])
    middle = add_transform(scene, second, outer, inverse[1])
    inner = add_transform(scene, third, middle, inverse[2])
    node = add_volume(scene, BOX, own, parent=inner)
    np.testing.assert_allclose(world_affine(node), RAS_TO_LPS @ first @ second @ third @ own, rtol=0, atol=1e-7)
    other = add_volume(scene, BOX, np.eye(4), "mr", parent=middle)
    np.testing.assert_allclose(affine_below(other, world_affine(node)), third @ own, rtol=0, atol=1e-7)


def test_an_inverted_transform_node(scene):
    matrix = grid_affine((1, 1, 1), (0.1, 0.2, 0.3), (4, 5, 6))
    transform = add_transform(scene, matrix)
    transform.Inverse()
    node = add_volume(scene, BOX, np.eye(4), parent=transform)
    np.testing.assert_allclose(world_affine(node), RAS_TO_LPS @ np.linalg.inv(matrix), atol=1e-12)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_transform_that_is_not_linear_has_to_be_hardened(scene, depth):
    parent = add_bent_transform(scene)
    if depth:
        parent = add_transform(scene, np.eye(4), parent)
    node = add_volume(scene, BOX, np.eye(4), parent=parent)
    with pytest.raises(GeometryError, match="'ct' lies under a transform that is not linear.*Harden it"):
        world_affine(node)


@pytest.mark.parametrize("broken", [np.diag([1.0, 0, 1, 1]), np.diag([1.0, np.nan, 1, 1])])
def test_a_transform_that_cannot_be_undone_is_named(scene, broken):
    node = add_volume(scene, BOX, np.eye(4), parent=add_transform(scene, broken, name="flat"))
    with pytest.raises(GeometryError, match="'ct' lies under a transform that cannot be undone .'flat' or one above"):
        world_affine(node)


def test_a_transform_that_only_changes_the_unit_is_none_of_these(scene):
    node = add_volume(scene, BOX, np.eye(4), parent=add_transform(scene, np.diag([1e-3, 1e-3, 1e-3, 1])))
    np.testing.assert_allclose(world_affine(node), RAS_TO_LPS @ np.diag([1e-3, 1e-3, 1e-3, 1]))


def test_voxels_that_do_not_start_at_index_0(scene):
    node = add_volume(scene, BOX, np.diag([2.0, 3, 4, 1]))
    node.GetImageData().SetExtent(1, 4, 2, 4, 3, 4)
    assert world_affine(node)[:3, 3].tolist() == [-2, -6, 12]


def test_movements_and_vtk_matrices():
    matrix = grid_affine((1, 1, 1), (0.1, 0.2, 0.3), (4, 5, 6))
    assert np.array_equal(from_vtk(to_vtk(matrix)), matrix)
    point = np.array([1.0, 2, 3, 1])
    np.testing.assert_allclose(movement_to_ras(matrix) @ RAS_TO_LPS @ point, RAS_TO_LPS @ matrix @ point)
    np.testing.assert_allclose(movement_to_ras(movement_to_ras(matrix)), matrix)
