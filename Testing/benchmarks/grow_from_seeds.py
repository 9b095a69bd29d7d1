"""Slicer's own "Grow from seeds" on arrays: the filter behind the button, from slicer-core."""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.labels import UNLABELLED

# Slicer grows within the seeds' extent enlarged by a tenth on each side.
MARGIN_RATIO = 0.1


def grow_from_seeds(image: np.ndarray, scribbles: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Labels (k, j, i) uint8, background 0, grown from scribbles.

    Args:
        image: (k, j, i) intensities.
        scribbles: (k, j, i) uint8, internal convention.
        spacing: (k, j, i), mm.
    """
    import slicer

    box = _seed_box(scribbles)
    seeds = np.where(scribbles == UNLABELLED, 0, scribbles.astype(np.int16) + 1)[box].astype(np.uint8)
    grower = slicer.vtkImageGrowCutSegment()
    grower.SetIntensityVolume(_to_vtk(image[box].astype(np.int16), spacing))
    grower.SetSeedLabelVolume(_to_vtk(seeds, spacing))
    grower.Update()
    grown = np.zeros(image.shape, np.uint8)
    result = _from_vtk(grower.GetOutput(), seeds.shape)
    grown[box] = np.where(result > 0, result - 1, 0)
    return grown


def _seed_box(scribbles: np.ndarray) -> tuple[slice, ...]:
    voxels = np.argwhere(scribbles != UNLABELLED)
    low, high = voxels.min(0), voxels.max(0) + 1
    margin = np.ceil((high - low) * MARGIN_RATIO).astype(int)
    return tuple(slice(max(0, a - m), b + m) for a, b, m in zip(low, high, margin))


def _to_vtk(array: np.ndarray, spacing: tuple[float, float, float]):
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    image = vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    image.SetSpacing(*spacing[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    return image


def _from_vtk(image, shape: tuple[int, ...]) -> np.ndarray:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
