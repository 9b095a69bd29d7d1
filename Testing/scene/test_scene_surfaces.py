"""Surfaces that are made beside the scene's thread: where Slicer's own are, and no finer than is asked for."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.segmentations import has_3d, write_segmentation
from CrossModalSegLib.scene.surfaces import Solids, remove_surfaces, set_surfaces, state
from CrossModalSegLib.scene.volumes import add_volume
from CrossModalSegLib.volume import Volume
from grids import grid_affine

TABLE = LabelTable.from_names(["liver", "spleen", "nothing"])
AFFINES = {
    "oblique": grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0)),
    "mirrored": np.diag([-0.8, 1.1, 4.5, 1.0]),
}


def result(scene: object, labels: np.ndarray, affine: np.ndarray) -> object:
    volume = Volume(labels.astype(np.uint8), affine)
    return write_segmentation(scene, volume, TABLE, add_volume(scene, volume, "ct"), "Result")


def surface(node: object, index: int) -> object:
    return node.GetSegmentation().GetNthSegment(index).GetRepresentation("Closed surface")


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_they_lie_where_slicers_own_do(scene: object, affine: np.ndarray) -> None:
    """Also at the border of the volume; the third class is empty."""
    labels = np.zeros((10, 20, 30))
    labels[3:8, 5:15, 10:28] = 1
    labels[:2, :4, :4] = 2
    node = result(scene, labels, affine)
    node.CreateClosedSurfaceRepresentation()
    expected = [surface(node, index) for index in range(3)]
    remove_surfaces(node)
    assert not has_3d(node)
    made = Solids(node).surfaces()
    assert not made.is_reduced
    set_surfaces(node, made)
    assert has_3d(node)
    for index in range(2):
        found = surface(node, index)
        assert found.GetNumberOfCells() == expected[index].GetNumberOfCells()
        np.testing.assert_allclose(found.GetBounds(), expected[index].GetBounds(), atol=1e-3)
        _require_outwards(found)
    assert surface(node, 2).GetNumberOfCells() == 0


def _require_outwards(found: object) -> None:
    points = np.array([found.GetPoint(index) for index in range(found.GetNumberOfPoints())])
    normals = np.array([found.GetPointData().GetNormals().GetTuple(index) for index in range(len(points))])
    assert ((points - points.mean(axis=0)) * normals).sum(axis=1).mean() > 0


def test_ragged_ones_are_reduced_to_what_is_asked_for(scene: object) -> None:
    labels = np.random.default_rng(0).choice([0, 1, 2], (20, 40, 40), p=[0.8, 0.1, 0.1])
    node = result(scene, labels, AFFINES["oblique"])
    full = Solids(node).surfaces(most=10**9)
    few = Solids(node).surfaces(most=5000)

    def triangles(surfaces: object) -> int:
        return sum(each.GetNumberOfCells() for each in surfaces.of.values())

    assert triangles(full) > 50_000 and not full.is_reduced
    assert 500 < triangles(few) <= 5000 and few.is_reduced


def test_other_voxels_are_another_state(scene: object) -> None:
    node = result(scene, np.ones((3, 4, 5)), AFFINES["oblique"])
    before = state(node)
    set_surfaces(node, Solids(node).surfaces())
    assert state(node) == before
    node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap").Modified()
    assert state(node) != before
