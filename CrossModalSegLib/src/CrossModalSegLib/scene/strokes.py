"""Painted voxels of segments, sparse, and where they land on the grid of a volume.

Nothing is resampled: each painted voxel marks the voxel of the volume that its centre falls into, so that no stroke is
lost, however thin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.errors import GeometryError
from CrossModalSegLib.labels import BACKGROUND as BACKGROUND_VALUE
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import nearest_index

from .geometry import affine_in
from .images import nonzero, oriented_affine
from .segments import SCRIBBLE_TAG, SegmentOfClass, labelmap, overlap_error, segments_of_classes

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkMRMLVolumeNode, vtkOrientedImageData


@dataclass(frozen=True, eq=False)
class Stroke:
    """The painted voxels of one segment.

    Attributes:
        segment: which, and the class it stands for.
        label: the segment's value in its image.
        image: that holds the voxels; segments may share one.
        index: (3, N), (i, j, k) as VTK counts in this image.
    """

    segment: SegmentOfClass
    label: int
    image: vtkOrientedImageData
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Marks:
    """Voxels of a volume that strokes mark.

    Attributes:
        flat: (N,) places in the raveled (k, j, i) array, none twice.
        values: (N,) uint8: 0 background, 1..K.
    """

    flat: np.ndarray
    values: np.ndarray


def find_strokes(node: vtkMRMLSegmentationNode, table: LabelTable) -> list[Stroke]:
    """The strokes of all segments that hold any, in the order of the segments.

    Raises:
        InputError: a segment is a surface only.
    """
    painted: dict[vtkOrientedImageData, tuple[np.ndarray, np.ndarray]] = {}
    strokes = []
    for segment in segments_of_classes(node, table, SCRIBBLE_TAG):
        image = labelmap(node, segment.identity)
        if image is None:
            continue
        if image not in painted:
            painted[image] = nonzero(image)
        index, values = painted[image]
        label = node.GetSegmentation().GetSegment(segment.identity).GetLabelValue()
        if (values == label).any():
            strokes.append(Stroke(segment, label, image, index[:, values == label]))
    return strokes


def landed(stroke: Stroke, node: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode) -> tuple[np.ndarray, int]:
    """Where the voxels of a stroke land on a volume.

    Returns:
        (M,) places in the raveled (k, j, i) array, and how many voxels lie outside of it.

    Raises:
        GeometryError: a parent transform is not linear.
    """
    shape = reference.GetImageData().GetDimensions()[::-1]
    to_reference = np.linalg.solve(affine_in(node, reference), oriented_affine(stroke.image))
    target, inside = nearest_index(to_reference, stroke.index, shape)
    return np.ravel_multi_index(tuple(target[::-1]), shape), int(inside.size - inside.sum())


def marks(strokes: Sequence[Stroke], node: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode) -> Marks:
    """What strokes say about the voxels of a volume.

    Where voxels of several classes that do not overlap fall into one voxel of a coarser volume, a class wins over
    background, and among classes the smallest value wins.

    Args:
        strokes: all of classes or background.
        node: that they are of.
        reference: the volume.

    Raises:
        LabelError: strokes of two classes overlap; both are named.
        GeometryError: a stroke lies outside of the volume, or a parent transform is not linear.
    """
    _require_no_overlap(strokes, node)
    found = Marks(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8))
    for layer in _by_lattice(strokes).values():
        found = _joined(found, _marks_of_lattice(layer, node, reference), strokes, node)
    return found


def _by_lattice(strokes: Sequence[Stroke]) -> dict[bytes, list[Stroke]]:
    """Strokes whose images count the same voxels."""
    groups: dict[bytes, list[Stroke]] = {}
    for stroke in strokes:
        groups.setdefault(oriented_affine(stroke.image).tobytes(), []).append(stroke)
    return groups


def _require_no_overlap(strokes: Sequence[Stroke], node: vtkMRMLSegmentationNode) -> None:
    """Check the images' own voxels; those of one image with different labels cannot overlap."""
    for group in _by_lattice(strokes).values():
        low = np.min([stroke.index.min(axis=1) for stroke in group], axis=0)[:, None]
        size = np.max([stroke.index.max(axis=1) for stroke in group], axis=0)[:, None] - low + 1
        for number, second in enumerate(group):
            for first in group[:number]:
                if first.segment.value == second.segment.value:
                    continue
                if first.image is second.image and first.label != second.label:
                    continue
                codes = [np.ravel_multi_index(tuple(each.index - low), size.ravel()) for each in (first, second)]
                common = np.intersect1d(*codes, assume_unique=True).size
                if common:
                    raise overlap_error(first.segment.name, second.segment.name, common, node)


def _marks_of_lattice(strokes: Sequence[Stroke], node: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode) -> Marks:
    places, values = [], []
    # Background first, then from the largest value down: of several at one place the last is kept.
    for stroke in sorted(strokes, key=lambda each: (each.segment.value != BACKGROUND_VALUE, -each.segment.value)):
        flat, outside = landed(stroke, node, reference)
        if outside:
            raise GeometryError(
                f"{outside} of the {stroke.index.shape[1]} voxels drawn in '{stroke.segment.name}' of "
                f"'{node.GetName()}' lie outside of '{reference.GetName()}'. Was it drawn on another volume, or moved "
                "by a transform? Choose that volume, or erase them."
            )
        places.append(flat)
        values.append(np.full(flat.size, stroke.segment.value, dtype=np.uint8))
    flat, last = np.unique(np.concatenate(places)[::-1], return_index=True)
    return Marks(flat, np.concatenate(values)[::-1][last])


def _joined(a: Marks, b: Marks, strokes: Sequence[Stroke], node: vtkMRMLSegmentationNode) -> Marks:
    common, in_a, in_b = np.intersect1d(a.flat, b.flat, assume_unique=True, return_indices=True)
    differs = np.flatnonzero(a.values[in_a] != b.values[in_b])
    if differs.size:
        names = {stroke.segment.value: stroke.segment.name for stroke in strokes}
        first, second = (names[each.values[at[differs[0]]]] for each, at in ((a, in_a), (b, in_b)))
        raise overlap_error(first, second, differs.size, node)
    new = ~np.isin(b.flat, common, assume_unique=True)
    return Marks(np.concatenate([a.flat, b.flat[new]]), np.concatenate([a.values, b.values[new]]))
