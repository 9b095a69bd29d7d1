"""Nodes for the tests, and where things lie by hand-written arithmetic rather than the code under test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
from hypothesis import strategies as st
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from CrossModalSegLib.labels import LabelTable
from grids import grid_affine

TABLE = LabelTable.from_names(["liver", "left kidney", "Tumör links"])
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

angles = st.tuples(*[st.floats(-np.pi, np.pi)] * 3)
spacings = st.tuples(*[st.floats(0.4, 6.0)] * 3)
origins = st.tuples(*[st.floats(-500, 500)] * 3)
affines = st.builds(grid_affine, spacings, angles, origins)
rigid = st.builds(lambda turn, shift: grid_affine((1, 1, 1), turn, shift), angles, origins)
# Scaled along turned axes: the world sees a sheared grid.
affine_transforms = st.builds(
    lambda scale, first, second, shift: grid_affine((1, 1, 1), first, shift) @ grid_affine(scale, second, (0, 0, 0)),
    st.tuples(*[st.floats(0.5, 2.0)] * 3),
    angles,
    angles,
    origins,
)


def vtk_matrix(matrix: np.ndarray) -> vtkMatrix4x4:
    result = vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            result.SetElement(row, column, float(matrix[row, column]))
    return result


def vtk_image(array: np.ndarray, kind: type = vtkImageData) -> vtkImageData:
    """(k, j, i), or (k, j, i, component)."""
    image = kind()
    image.SetDimensions(array.shape[2], array.shape[1], array.shape[0])
    image.GetPointData().SetScalars(numpy_to_vtk(array.reshape(-1, *array.shape[3:]), deep=True))
    return image


def add_volume(
    scene: object,
    array: np.ndarray,
    ijk_to_ras: np.ndarray,
    name: str = "ct",
    parent: object = None,
    kind: str = "vtkMRMLScalarVolumeNode",
):
    node = scene.AddNewNodeByClass(kind, name)
    node.SetAndObserveImageData(vtk_image(array))
    node.SetIJKToRASMatrix(vtk_matrix(ijk_to_ras))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def add_transform(scene: object, matrix: np.ndarray, parent: object = None, inverse: bool = False, name: str = "move"):
    """A linear transform node; with `inverse` it is stored as the matrix from its parent."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    if inverse:
        node.SetMatrixTransformFromParent(vtk_matrix(np.linalg.inv(matrix)))
    else:
        node.SetMatrixTransformToParent(vtk_matrix(matrix))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def add_bent_transform(scene: object):
    """A transform that is not linear."""
    from vtkmodules.vtkFiltersHybrid import vtkGridTransform

    field = vtkImageData()
    field.SetDimensions(2, 2, 2)
    field.SetSpacing(100, 100, 100)
    field.AllocateScalars(11, 3)
    vtk_to_numpy(field.GetPointData().GetScalars())[:] = 0
    grid = vtkGridTransform()
    grid.SetDisplacementGridData(field)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "warp")
    node.SetAndObserveTransformToParent(grid)
    return node


def add_segmentation(
    scene: object,
    segments: dict[str, np.ndarray],
    ijk_to_ras: np.ndarray,
    name: str = "S",
    parent: object = None,
):
    """One layer a segment, as painting over others with "overwrite none" gives it."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    for number, (segment_name, mask) in enumerate(segments.items()):
        add_segment(node, f"s{number}", segment_name, mask, ijk_to_ras)
    return node


def add_segment(node: object, identity: str, name: str, mask: np.ndarray, ijk_to_ras: np.ndarray):
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetLabelValue(1)
    image = vtk_image(np.ascontiguousarray(mask, dtype=np.uint8), slicer.vtkOrientedImageData)
    image.SetImageToWorldMatrix(vtk_matrix(ijk_to_ras))
    segment.AddRepresentation("Binary labelmap", image)
    assert node.GetSegmentation().AddSegment(segment, identity)
    return segment


def paint(node: object, segment_id: str, mask: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Add voxels to a segment as the Segment Editor does: a modifier image, with its label value, is merged in."""
    label = node.GetSegmentation().GetSegment(segment_id).GetLabelValue()
    image = vtk_image(label * np.ascontiguousarray(mask, dtype=np.uint8), slicer.vtkOrientedImageData)
    image.SetImageToWorldMatrix(vtk_matrix(ijk_to_ras))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(image, node, segment_id, logic.MODE_MERGE_MAX)


def slicer_says(node: object, segment_id: str, reference: object) -> np.ndarray:
    """(k, j, i) bool: where Slicer itself sees a segment on a volume's grid, through all transforms."""
    from vtkmodules.vtkCommonCore import vtkStringArray

    labelmap = node.GetScene().AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "export")
    ids = vtkStringArray()
    ids.InsertNextValue(segment_id)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ExportSegmentsToLabelmapNode(node, ids, labelmap, reference)
    array = vtk_to_numpy(labelmap.GetImageData().GetPointData().GetScalars()).copy()
    shape = labelmap.GetImageData().GetDimensions()[::-1]
    node.GetScene().RemoveNode(labelmap)
    return array.reshape(shape) > 0


def segment_named(node: object, name: str) -> str:
    """The id of the only segment of this name."""
    segmentation = node.GetSegmentation()
    found = [each for each in segmentation.GetSegmentIDs() if segmentation.GetSegment(each).GetName() == name]
    assert len(found) == 1, found
    return found[0]


def save_mrb(scene, folder: Path):
    """Save a scene as a bundle, clear it, and open the bundle, which is unpacked into the folder of the cache."""
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    (folder / "cache").mkdir()
    cache.SetRemoteCacheDirectory(str(folder / "cache"))
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    path = str(folder / "Fall 1 ü.mrb")
    assert scene.WriteToMRB(path, None)
    scene.Clear(0)
    assert scene.ReadFromMRB(path, False)
    scene.SetDataIOManager(None)
    scene.SetCacheManager(None)
