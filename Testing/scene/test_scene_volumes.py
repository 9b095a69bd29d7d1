from __future__ import annotations

import numpy as np
import pytest
import slicer
from hypothesis import given
from scene_support import RAS_TO_LPS, add_transform, add_volume, affine_transforms, affines, rigid

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.scene.change import Change
from CrossModalSegLib.scene.images import voxels
from CrossModalSegLib.scene.volumes import SOURCE_ROLE, lend_volume, read_grid, read_volume, write_volume
from CrossModalSegLib.volume import Volume, same_geometry
from grids import grid_affine

OBLIQUE = grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))
TYPES = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_number_type_goes_there_and_back(scene, dtype):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    read = read_volume(add_volume(scene, array, OBLIQUE))
    assert read.array.dtype == dtype
    assert np.array_equal(read.array, array)
    node = write_volume(scene, read, "copy", under=add_volume(scene, array, np.eye(4)))
    again = read_volume(node)
    assert again.array.dtype == dtype
    assert np.array_equal(again.array, array)
    assert same_geometry(again, read, 1e-9)


def test_the_array_is_a_copy(scene):
    node = add_volume(scene, np.zeros((2, 3, 4), np.float32), OBLIQUE)
    read_volume(node).array[:] = 7
    assert not read_volume(node).array.any()


def test_voxels_that_are_lent_are_the_nodes_own_and_outlive_it(scene):
    node = add_volume(scene, np.ones((2, 3, 4), np.float32), OBLIQUE)
    read = lend_volume(node)()
    assert same_geometry(read, read_volume(node), 1e-9)
    voxels(node.GetImageData())[:] = 5
    node.GetImageData().GetPointData().GetScalars().Modified()
    scene.RemoveNode(node)
    del node
    assert np.array_equal(read.array, np.full((2, 3, 4), 5, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        read.array[0] = 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(scene, value):
    array = np.zeros((2, 3, 4), np.float32)
    array[1, 1, :2] = value
    node = add_volume(scene, array, OBLIQUE)
    with pytest.raises(InputError, match="'ct' holds 2 voxels that are not finite"):
        read_volume(node)
    lent = lend_volume(node)
    scene.RemoveNode(node)
    with pytest.raises(InputError, match="'ct' holds 2 voxels that are not finite"):
        lent()


@given(affines, rigid, affine_transforms)
def test_a_written_volume_lies_where_it_was_computed(headless, own, parent, other):
    scene = headless.scene
    scene.Clear(0)
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    node = add_volume(scene, array, own, parent=add_transform(scene, parent))
    read = read_volume(node)
    np.testing.assert_allclose(read.affine, RAS_TO_LPS @ parent @ own, rtol=0, atol=1e-7)
    under = add_volume(scene, np.zeros((2, 2, 2)), np.eye(4), "mr", parent=add_transform(scene, other, inverse=True))
    written = write_volume(scene, read, "probability", under)
    assert written.GetTransformNodeID() == under.GetTransformNodeID()
    assert written.GetNodeReference(SOURCE_ROLE) is under
    assert same_geometry(read_volume(written), read, 1e-6)
    assert np.array_equal(read_volume(written).array, array)


def test_a_written_volume_lies_in_the_folder_of_its_volume_and_can_be_taken_back(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    under = add_volume(scene, np.zeros((2, 2, 2)), np.eye(4))
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "patient")
    hierarchy.CreateItem(folder, under)
    under.CreateDefaultDisplayNodes()
    before, items = scene.GetNumberOfNodes(), hierarchy.GetNumberOfItems()
    change = Change(scene)
    node = write_volume(scene, read_volume(under), "p", under, change)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == folder
    assert node.GetDisplayNode() is not None
    change.undo()
    change.undo()
    assert not scene.IsNodePresent(node)
    assert hierarchy.GetNumberOfItems() == items
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1
    assert scene.GetNumberOfNodes() == before


def test_what_fails_is_undone(scene):
    under = add_volume(scene, np.zeros((2, 2, 2)), np.eye(4))
    written = []

    def fail_after_writing():
        with Change(scene) as change:
            written.append(write_volume(scene, read_volume(under), "p", under, change))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_writing()
    assert not scene.IsNodePresent(written[0])


def test_the_scene_s_own_undo_takes_the_same_step_back(scene):
    scene.SetUndoOn()
    try:
        under = add_volume(scene, np.zeros((2, 2, 2)), np.eye(4))
        with Change(scene) as change:
            node = write_volume(scene, read_volume(under), "p", under, change)
        scene.Undo()
        assert not scene.IsNodePresent(node)
        assert scene.IsNodePresent(under)
        change.undo()
    finally:
        scene.ClearUndoStack()
        scene.SetUndoOff()


def test_sheared_volumes_keep_their_shear(scene):
    sheared = OBLIQUE.copy()
    sheared[:3, 2] += sheared[:3, 1]
    node = add_volume(scene, np.zeros((2, 3, 4)), sheared)
    np.testing.assert_allclose(read_volume(node).affine, RAS_TO_LPS @ sheared, atol=1e-9)


def test_the_grid_costs_no_memory(scene):
    node = add_volume(scene, np.ones((2, 3, 4), np.float32), OBLIQUE)
    grid = read_grid(node)
    assert grid.array.strides == (0, 0, 0)
    assert same_geometry(grid, read_volume(node), 0.0)


def test_what_cannot_be_read(scene):
    def volume(array, kind="vtkMRMLScalarVolumeNode"):
        return add_volume(scene, array, np.eye(4), "scan", kind=kind)

    with pytest.raises(InputError, match="'scan' holds 3 values per voxel"):
        read_volume(volume(np.zeros((2, 2, 2, 3), np.uint8), "vtkMRMLVectorVolumeNode"))
    with pytest.raises(InputError, match="A volume of the scene was expected, got nothing"):
        read_volume(None)
    with pytest.raises(InputError, match="got 'S'"):
        read_volume(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S"))
    with pytest.raises(InputError, match="'new' holds no voxels"):
        read_volume(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "new"))
    broken = np.zeros((2, 2, 2), np.float32)
    broken[0, 0, 0], broken[1, 1, 1] = np.nan, np.inf
    with pytest.raises(InputError, match="'scan' holds 2 voxels that are not finite"):
        read_volume(volume(broken))
    assert isinstance(read_volume(volume(np.zeros((2, 2, 2), np.uint8), "vtkMRMLLabelMapVolumeNode")), Volume)
