"""Voxels between NumPy and VTK: arrays are (k, j, i), VTK's extents (i0, i1, j0, j1, k0, k1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import slicer
from vtkmodules.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from .geometry import from_vtk, to_vtk

if TYPE_CHECKING:
    from slicer import vtkOrientedImageData

Image = TypeVar("Image", bound=vtkImageData)


def is_empty(image: vtkImageData | None) -> bool:
    """Whether there is no voxel."""
    return image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0


def voxels(image: vtkImageData) -> np.ndarray:
    """(k, j, i) view of the voxels of an image with one value each; writing to it changes the image."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def filled(image: Image, array: np.ndarray) -> Image:
    """Give an image the size and a copy of the voxels (k, j, i) of an array."""
    array = np.ascontiguousarray(array.view(np.uint8) if array.dtype == np.bool_ else array)
    image.SetDimensions(*array.shape[::-1])
    # The type by name: NumPy's "long" is int64 on one system and int32 on another.
    scalars = numpy_to_vtk(array.ravel(), deep=True, array_type=get_vtk_array_type(array.dtype))
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def oriented_image(array: np.ndarray, affine: np.ndarray) -> vtkOrientedImageData:
    """An image that a segment can hold.

    Args:
        array: (k, j, i); its voxels are copied.
        affine: (4, 4) from (i, j, k, 1) to RAS mm below the segmentation's parent transforms.
    """
    image = filled(slicer.vtkOrientedImageData(), array)
    image.SetImageToWorldMatrix(to_vtk(affine))
    return image


def oriented_affine(image: vtkOrientedImageData) -> np.ndarray:
    """(4, 4) from VTK's own index (i, j, k, 1) to RAS mm below the segmentation's parent transforms."""
    matrix = vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return from_vtk(matrix)


def set_voxels(image: vtkImageData, array: np.ndarray) -> None:
    """Copy other voxels (k, j, i) into an image, and tell those who show it."""
    voxels(image)[:] = array
    image.GetPointData().GetScalars().Modified()
    image.Modified()


def nonzero(image: vtkImageData) -> tuple[np.ndarray, np.ndarray]:
    """Where an image is not 0: VTK's own indices (3, N) in (i, j, k), and the values (N,).

    Quick where few slices hold anything, as with scribbles.
    """
    array = voxels(image)
    slices = np.flatnonzero([plane.any() for plane in array])
    held = array[slices]
    # Much quicker than np.nonzero of three dimensions.
    flat = np.flatnonzero(held != 0)
    k, j, i = np.unravel_index(flat, held.shape)
    return np.stack([i, j, slices[k]]) + np.array(image.GetExtent()[::2])[:, None], held.ravel()[flat]
