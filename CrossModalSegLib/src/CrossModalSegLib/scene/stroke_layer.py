"""Strokes as they mostly are: all in one image that counts the voxels of the volume which was drawn on.

They need no indices, only their slices as they stand, which is many times quicker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.labels import UNLABELLED, LabelTable

from .geometry import affine_in
from .images import held_slices, oriented_affine, voxels
from .segments import SCRIBBLE_TAG, SegmentOfClass, labelmap, segments_of_classes

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkMRMLVolumeNode, vtkOrientedImageData

_TOLERANCE = 1e-3  # of a voxel: centres that lie closer than this are one


@dataclass(frozen=True, eq=False)
class StrokeLayer:
    """The slices of an image that hold strokes.

    Attributes:
        segments: by their label in the image; each stands for a class or background.
        planes: one (j, i) uint8 array of labels for each slice that holds any; 0 and other labels are no strokes.
        slices: (N,) their k in the volume.
        corner: (j, i) in the volume of their first voxel.
    """

    segments: dict[int, SegmentOfClass]
    planes: tuple[np.ndarray, ...]
    slices: np.ndarray
    corner: tuple[int, int]

    def copy(self) -> StrokeLayer:
        """The same, which stays as it is while others go on drawing."""
        return StrokeLayer(self.segments, tuple(plane.copy() for plane in self.planes), self.slices, self.corner)

    def drawn(self) -> list[SegmentOfClass]:
        """The segments that have strokes."""
        return [
            segment for label, segment in self.segments.items() if any((plane == label).any() for plane in self.planes)
        ]

    def counts(self) -> dict[int, int]:
        """How many voxels each class has, by its value."""
        counts: dict[int, int] = {}
        for label, segment in self.segments.items():
            count = sum(np.count_nonzero(plane == label) for plane in self.planes)
            counts[segment.value] = counts.get(segment.value, 0) + count
        return counts

    def painted(self, shape: tuple[int, int, int]) -> np.ndarray:
        """(k, j, i) uint8 of the volume: 0 background, 1..K classes, 255 unlabelled."""
        array = np.full(shape, UNLABELLED, dtype=np.uint8)
        value_of = np.full(256, UNLABELLED, dtype=np.uint8)
        value_of[list(self.segments)] = [segment.value for segment in self.segments.values()]
        j, i = self.corner
        for k, plane in zip(self.slices, self.planes, strict=True):
            array[k, j : j + plane.shape[0], i : i + plane.shape[1]] = np.take(value_of, plane, mode="clip")
        return array


def find_layer(node: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode, table: LabelTable) -> StrokeLayer | None:
    """The strokes of a segmentation, as views of the image's own voxels.

    Returns:
        None where it is not as simple: several images hold strokes, or one of another type or grid, or that reaches
        beyond the volume, or a segment with strokes stands for no class.

    Raises:
        InputError: a segment is a surface only.
        GeometryError: a parent transform is not linear.
    """
    segments_of: dict[vtkOrientedImageData, dict[int, SegmentOfClass]] = {}
    for segment in segments_of_classes(node, table, SCRIBBLE_TAG):
        image = labelmap(node, segment.identity)
        if image is None:
            continue
        label = node.GetSegmentation().GetSegment(segment.identity).GetLabelValue()
        if not 0 < label <= 255 or label in segments_of.setdefault(image, {}):
            return None
        segments_of[image][label] = segment
    slices_of = {image: held_slices(image) for image in segments_of}
    held = [image for image, slices in slices_of.items() if slices.size]
    if len(held) != 1 or voxels(held[0]).dtype != np.uint8:
        return None
    image = held[0]
    segments, planes = segments_of[image], tuple(voxels(image)[each] for each in slices_of[image])
    strange = [label for label, segment in segments.items() if segment.value is None]
    place = _place(image, node, reference)
    if place is None or any((plane == label).any() for label in strange for plane in planes):
        return None
    classes = {label: segment for label, segment in segments.items() if segment.value is not None}
    return StrokeLayer(classes, planes, slices_of[image] + place[0], place[1:])


def _place(
    image: vtkOrientedImageData, node: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode
) -> tuple[int, int, int] | None:
    """The (k, j, i) in the volume of an image's first voxel; None where they do not count the same voxels."""
    to_volume = np.linalg.solve(affine_in(node, reference), oriented_affine(image))
    extent = np.array(image.GetExtent()).reshape(3, 2)
    corners = np.array(np.meshgrid(*extent, indexing="ij")).reshape(3, -1)
    position = to_volume[:3, :3] @ corners + to_volume[:3, 3:]
    first = np.rint(position[:, 0]).astype(np.int64)
    if np.abs(position - (corners - corners[:, :1] + first[:, None])).max() > _TOLERANCE:
        return None
    size = np.array(reference.GetImageData().GetDimensions())
    if (first < 0).any() or (first + extent[:, 1] - extent[:, 0] >= size).any():
        return None
    return tuple(first[::-1].tolist())
