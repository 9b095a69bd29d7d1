"""Surfaces of segments, made in another thread than that of the scene, and no finer than can be shown in software.

Slicer's own conversion does all of its work in the thread that asks for it, and a ragged label map becomes millions of
triangles, of which each picture takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData
from vtkmodules.vtkCommonTransforms import vtkTransform
from vtkmodules.vtkFiltersCore import (
    vtkBinnedDecimation,
    vtkPolyDataNormals,
    vtkReverseSense,
    vtkWindowedSincPolyDataFilter,
)
from vtkmodules.vtkFiltersGeneral import vtkDiscreteFlyingEdges3D, vtkTransformPolyDataFilter

from .geometry import to_vtk
from .images import is_empty, oriented_affine, voxels
from .segments import SURFACE, labelmap, segment_ids

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

MOST_TRIANGLES = 250_000  # of a segmentation; software draws them in about half a second
_SMOOTHING_STEPS, _PASS_BAND = 40, 0.01  # as Slicer's own, at its default smoothing factor of 0.5
_COARSER = 1.25


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Of the segments of one segmentation.

    Attributes:
        of: by the id of the segment, in RAS mm below the segmentation's parent transforms; none of empty segments.
        is_reduced: whether they are coarser than the voxels.
    """

    of: Mapping[str, vtkPolyData]
    is_reduced: bool


@dataclass(frozen=True, eq=False)
class _Solid:
    """The voxels of a segment.

    Attributes:
        identity: of the segment.
        array: (k, j, i), shared with the segment.
        label: the segment's value in it.
        affine: (4, 4) from the array's (i, j, k, 1) to RAS mm below the segmentation's parent transforms.
    """

    identity: str
    array: np.ndarray
    label: int
    affine: np.ndarray


class Solids:
    """The voxels of all segments, to make surfaces of."""

    def __init__(self, node: vtkMRMLSegmentationNode) -> None:
        """Take note of where they are, which takes no time; they are not copied.

        Args:
            node: whose segments.
        """
        self._solids = [solid for identity in segment_ids(node) if (solid := _solid(node, identity)) is not None]

    def surfaces(self, most: int = MOST_TRIANGLES) -> Surfaces:
        """Make the surfaces; in any thread.

        Args:
            most: triangles in all; of more than these, neighbours are made one.
        """
        raw = {solid.identity: _raw_surface(solid) for solid in self._solids}
        raw = {identity: surface for identity, surface in raw.items() if surface.GetNumberOfCells()}
        fewer = _reduced(raw, most)
        affines = {solid.identity: solid.affine for solid in self._solids}
        finished = {identity: _finished(surface, affines[identity]) for identity, surface in fewer.items()}
        return Surfaces(finished, fewer is not raw)


def set_surfaces(node: vtkMRMLSegmentationNode, surfaces: Surfaces) -> None:
    """Give segments their surfaces; empty ones have one without triangles."""
    segmentation = node.GetSegmentation()
    for identity in segment_ids(node):
        segmentation.GetSegment(identity).AddRepresentation(SURFACE, surfaces.of.get(identity, vtkPolyData()))


def remove_surfaces(node: vtkMRMLSegmentationNode) -> None:
    """Take all surfaces away."""
    node.GetSegmentation().RemoveRepresentation(SURFACE)


def state(node: vtkMRMLSegmentationNode) -> tuple[object, ...]:
    """What changes whenever surfaces would: VTK counts changes of all objects together."""
    segmentation = node.GetSegmentation()
    images = [(each, labelmap(node, each)) for each in segment_ids(node)]
    return tuple(
        (each, segmentation.GetSegment(each).GetLabelValue(), image.GetMTime() if image else 0)
        for each, image in images
    )


def _solid(node: vtkMRMLSegmentationNode, identity: str) -> _Solid | None:
    image = labelmap(node, identity)
    if is_empty(image):
        return None
    first = np.eye(4)
    first[:3, 3] = image.GetExtent()[::2]
    label = node.GetSegmentation().GetSegment(identity).GetLabelValue()
    return _Solid(identity, voxels(image), label, oriented_affine(image) @ first)


def _raw_surface(solid: _Solid) -> vtkPolyData:
    """In voxels, (i, j, k); closed also where the segment reaches the border."""
    is_inside = solid.array == solid.label
    box = _box(is_inside)
    if box is None:
        return vtkPolyData()
    array = np.pad(is_inside[box], 1).view(np.uint8)
    image = vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    image.SetOrigin(*(each.start - 1 for each in box[::-1]))
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel()))
    edges = vtkDiscreteFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 1)
    edges.ComputeNormalsOff()
    edges.ComputeGradientsOff()
    edges.ComputeScalarsOff()
    edges.Update()
    return edges.GetOutput()


def _box(is_inside: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds all that is inside; None where nothing is."""
    plane = np.zeros(is_inside.shape[1:], dtype=np.bool_)
    held = np.zeros(is_inside.shape[0], dtype=np.bool_)
    for k, each in enumerate(is_inside):
        held[k] = each.any()
        plane |= each
    if not held.any():
        return None
    places = [np.flatnonzero(each) for each in (held, plane.any(axis=1), plane.any(axis=0))]
    return tuple(slice(int(each[0]), int(each[-1]) + 1) for each in places)


def _reduced(surfaces: Mapping[str, vtkPolyData], most: int) -> Mapping[str, vtkPolyData]:
    """The same ones where they are small enough; else all at one coarser resolution."""
    fewer, voxels_wide = surfaces, 1.6
    while _triangles(fewer.values()) > most:
        voxels_wide *= _COARSER
        fewer = {identity: _binned(surface, voxels_wide) for identity, surface in surfaces.items()}
    return fewer


def _triangles(surfaces: Sequence[vtkPolyData]) -> int:
    return sum(surface.GetNumberOfCells() for surface in surfaces)


def _binned(surface: vtkPolyData, voxels_wide: float) -> vtkPolyData:
    """With all points within a cube made one."""
    bounds = np.array(surface.GetBounds()).reshape(3, 2)
    binned = vtkBinnedDecimation()
    binned.SetInputData(surface)
    binned.AutoAdjustNumberOfDivisionsOff()
    binned.SetNumberOfDivisions(*(max(1, round(float(each) / voxels_wide)) for each in bounds[:, 1] - bounds[:, 0]))
    binned.SetPointGenerationModeToBinAverages()
    binned.Update()
    return binned.GetOutput()


def _finished(surface: vtkPolyData, affine: np.ndarray) -> vtkPolyData:
    """Smooth, in millimetres, with normals that point outwards."""
    smooth = vtkWindowedSincPolyDataFilter()
    smooth.SetInputData(surface)
    smooth.SetNumberOfIterations(_SMOOTHING_STEPS)
    smooth.SetPassBand(_PASS_BAND)
    smooth.BoundarySmoothingOff()
    smooth.FeatureEdgeSmoothingOff()
    smooth.NonManifoldSmoothingOn()
    smooth.NormalizeCoordinatesOn()
    smooth.Update()
    placed, transform = vtkTransformPolyDataFilter(), vtkTransform()
    transform.SetMatrix(to_vtk(affine))
    placed.SetInputData(smooth.GetOutput())
    placed.SetTransform(transform)
    placed.Update()
    result = placed.GetOutput()
    if np.linalg.det(affine[:3, :3]) < 0:
        reversing = vtkReverseSense()
        reversing.SetInputData(result)
        reversing.ReverseCellsOn()
        reversing.ReverseNormalsOff()
        reversing.Update()
        result = reversing.GetOutput()
    normals = vtkPolyDataNormals()
    normals.SetInputData(result)
    normals.SplittingOff()
    normals.ConsistencyOff()
    normals.Update()
    return normals.GetOutput()
