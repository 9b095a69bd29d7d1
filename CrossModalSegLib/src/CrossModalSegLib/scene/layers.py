"""Images that segments share: Slicer keeps segments that do not overlap in one image, each with its own label value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import slicer
from vtkmodules.util.vtkConstants import VTK_UNSIGNED_CHAR

from CrossModalSegLib.errors import GeometryError

from .geometry import affine_in, to_vtk
from .images import is_empty, oriented_affine, voxels
from .segments import LABELMAP, segment_ids

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkMRMLVolumeNode, vtkOrientedImageData

_TOLERANCE = 1e-2  # of a voxel: grids whose voxel centres lie closer than this are one


def sharing(node: vtkMRMLSegmentationNode, image: vtkOrientedImageData) -> tuple[str, ...]:
    """Ids of the segments whose voxels are in an image."""
    segmentation = node.GetSegmentation()
    return tuple(
        each for each in segment_ids(node) if segmentation.GetSegment(each).GetRepresentation(LABELMAP) is image
    )


def give(node: vtkMRMLSegmentationNode, identities: tuple[str, ...], image: vtkOrientedImageData) -> None:
    """Let segments have their voxels in another image; their label values stay."""
    for identity in identities:
        node.GetSegmentation().GetSegment(identity).AddRepresentation(LABELMAP, image)
    image.Modified()


def add_voxels(node: vtkMRMLSegmentationNode, identity: str, volume: vtkMRMLVolumeNode, flat: np.ndarray) -> None:
    """Give a segment more voxels, without resampling; all other voxels of its image stay.

    Args:
        node: of the segment.
        identity: of the segment.
        volume: whose voxels are meant; the segment's image has to count the same ones.
        flat: (N,) places in the volume's raveled (k, j, i) array, where no segment of the image has voxels.

    Raises:
        GeometryError: the segment's image has another grid than the volume.
    """
    if not flat.size:
        return
    segment = node.GetSegmentation().GetSegment(identity)
    image = segment.GetRepresentation(LABELMAP)
    affine = affine_in(node, volume) if is_empty(image) else oriented_affine(image)
    index = _own_index(affine, node, volume, flat)
    large = _holding(image, affine, index)
    if large is not image:
        give(node, sharing(node, image), large)
    _set(large, index, segment.GetLabelValue())


def remove_voxels(node: vtkMRMLSegmentationNode, identity: str, volume: vtkMRMLVolumeNode, flat: np.ndarray) -> None:
    """Take voxels away from a segment; those that it does not have any more are left alone."""
    remove_own_voxels(node, identity, own_voxels(node, identity, volume, flat))


def own_voxels(node: vtkMRMLSegmentationNode, identity: str, volume: vtkMRMLVolumeNode, flat: np.ndarray) -> np.ndarray:
    """(3, N) in (i, j, k) as VTK counts in the image of a segment, of voxels of a volume; these stay though both move.

    Args:
        node: of the segment.
        identity: of the segment.
        volume: whose voxels are meant; the segment's image has to count the same ones.
        flat: (N,) places in the volume's raveled (k, j, i) array.

    Raises:
        GeometryError: the segment's image has another grid than the volume.
    """
    segment = node.GetSegmentation().GetSegment(identity)
    image = segment.GetRepresentation(LABELMAP) if segment is not None else None
    if is_empty(image) or not flat.size:
        return np.zeros((3, 0), dtype=np.int64)
    return _own_index(oriented_affine(image), node, volume, flat)


def remove_own_voxels(node: vtkMRMLSegmentationNode, identity: str, index: np.ndarray) -> None:
    """Take voxels away from a segment that `own_voxels` named; those that it does not have any more are left alone."""
    segment = node.GetSegmentation().GetSegment(identity)
    image = segment.GetRepresentation(LABELMAP) if segment is not None else None
    if is_empty(image) or not index.size:
        return
    extent = np.array(image.GetExtent())
    index = index[:, ((index >= extent[::2, None]) & (index <= extent[1::2, None])).all(axis=0)]
    i, j, k = index - extent[::2, None]
    _set(image, index[:, voxels(image)[k, j, i] == segment.GetLabelValue()], 0)


def _own_index(
    affine: np.ndarray, node: vtkMRMLSegmentationNode, volume: vtkMRMLVolumeNode, flat: np.ndarray
) -> np.ndarray:
    """(3, N) in (i, j, k) as VTK counts in an image with this affine, of voxels of a volume."""
    shape = volume.GetImageData().GetDimensions()[::-1]
    to_own = np.linalg.solve(affine, affine_in(node, volume))
    position = to_own[:3, :3] @ np.stack(np.unravel_index(flat, shape)[::-1]) + to_own[:3, 3:]
    index = np.rint(position)
    if abs(abs(np.linalg.det(to_own)) - 1) > _TOLERANCE or np.abs(position - index).max() > _TOLERANCE:
        raise GeometryError(
            f"'{node.GetName()}' was drawn on another grid than that of '{volume.GetName()}', so voxels cannot be "
            f"added to it without moving them. Prepare scribbles for '{volume.GetName()}' anew."
        )
    return index.astype(np.int64)


def _set(image: vtkOrientedImageData, index: np.ndarray, value: int) -> None:
    i, j, k = index - np.array(image.GetExtent()[::2])[:, None]
    voxels(image)[k, j, i] = value
    image.GetPointData().GetScalars().Modified()
    image.Modified()


def _holding(image: vtkOrientedImageData, affine: np.ndarray, index: np.ndarray) -> vtkOrientedImageData:
    """An image with the same voxels that is large enough for others (3, N); the image itself where it is."""
    low, high = index.min(axis=1), index.max(axis=1)
    extent = np.array(image.GetExtent())
    if not is_empty(image):
        low, high = np.minimum(low, extent[::2]), np.maximum(high, extent[1::2])
        if np.array_equal(low, extent[::2]) and np.array_equal(high, extent[1::2]):
            return image
    grown = slicer.vtkOrientedImageData()
    grown.SetImageToWorldMatrix(to_vtk(affine))
    grown.SetExtent(*np.stack([low, high], axis=1).ravel().tolist())
    grown.AllocateScalars(VTK_UNSIGNED_CHAR if is_empty(image) else image.GetScalarType(), 1)
    array = voxels(grown)
    array[:] = 0
    if not is_empty(image):
        old = voxels(image)
        i, j, k = (extent[::2] - low).tolist()
        array[k : k + old.shape[0], j : j + old.shape[1], i : i + old.shape[2]] = old
    return grown


def alone(node: vtkMRMLSegmentationNode, identities: tuple[str, ...]) -> None:
    """See to it that no other segments have their voxels in the images of these; no voxel of any segment changes.

    Slicer gives new segments label values that no segment of their image has. Where voxels of a segment that moved to
    another image stayed behind, they would become a new segment's.
    """
    segmentation = node.GetSegmentation()
    for image in {segmentation.GetSegment(each).GetRepresentation(LABELMAP) for each in identities} - {None}:
        everyone = sharing(node, image)
        mine = tuple(each for each in everyone if each in identities)
        others = tuple(each for each in everyone if each not in identities)
        if others and not is_empty(image):
            for group in (mine, others):
                labels = [segmentation.GetSegment(each).GetLabelValue() for each in group]
                give(node, group, _only(image, labels))


def _only(image: vtkOrientedImageData, labels: list[int]) -> vtkOrientedImageData:
    copy = slicer.vtkOrientedImageData()
    copy.DeepCopy(image)
    array = voxels(copy)
    array[~np.isin(array, labels)] = 0
    return copy
