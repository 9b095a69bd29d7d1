"""Voxels between NumPy and VTK: arrays are (k, j, i), VTK's extents (i0, i1, j0, j1, k0, k1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import slicer
from vtkmodules.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy
from vtkmodules.util.vtkConstants import VTK_UNSIGNED_CHAR
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from .geometry import from_vtk, to_vtk

if TYPE_CHECKING:
    from slicer import vtkOrientedImageData

Image = TypeVar("Image", bound=vtkImageData)
WHOLE = (slice(None), slice(None), slice(None))


def is_empty(image: vtkImageData | None) -> bool:
    """Whether there is no voxel."""
    return image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0


def voxels(image: vtkImageData) -> np.ndarray:
    """(k, j, i) view of the voxels of an image with one value each; writing to it changes the image."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def differing_box(first: np.ndarray, second: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds all voxels in which two arrays (k, j, i) of one shape differ; None where none do."""
    differs = np.zeros(first.shape[1:], dtype=np.bool_)
    slices = []
    for k, (one, other) in enumerate(zip(first, second, strict=True)):
        plane = one != other
        if plane.any():
            slices.append(k)
            differs |= plane
    if not slices:
        return None
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return tuple(slice(int(each[0]), int(each[-1]) + 1) for each in (slices, rows, columns))


def filled(image: Image, array: np.ndarray) -> Image:
    """Give an image the size and a copy of the voxels (k, j, i) of an array."""
    array = np.ascontiguousarray(array.view(np.uint8) if array.dtype == np.bool_ else array)
    image.SetDimensions(*array.shape[::-1])
    # The type by name: NumPy's "long" is int64 on one system and int32 on another.
    scalars = numpy_to_vtk(array.ravel(), deep=True, array_type=get_vtk_array_type(array.dtype))
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def empty_image(shape: tuple[int, int, int]) -> vtkOrientedImageData:
    """Room for the voxels (k, j, i), uint8, of an image that a segment can hold; what they are is left open.

    Takes no time: the system gives the memory when it is written to for the first time, which takes long.
    """
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*shape[::-1])
    image.AllocateScalars(VTK_UNSIGNED_CHAR, 1)
    image.GetPointData().GetScalars().SetName("ImageScalars")
    return image


def oriented_image(
    array: np.ndarray, affine: np.ndarray, room: vtkOrientedImageData | None = None
) -> vtkOrientedImageData:
    """An image that a segment can hold.

    Args:
        array: (k, j, i); its voxels are copied.
        affine: (4, 4) from (i, j, k, 1) to RAS mm below the segmentation's parent transforms.
        room: an `empty_image` of the array's shape to take.
    """
    if room is None:
        image = filled(slicer.vtkOrientedImageData(), array)
    else:
        image = room
        set_voxels(image, array)
    image.SetImageToWorldMatrix(to_vtk(affine))
    return image


def oriented_affine(image: vtkOrientedImageData) -> np.ndarray:
    """(4, 4) from VTK's own index (i, j, k, 1) to RAS mm below the segmentation's parent transforms."""
    matrix = vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return from_vtk(matrix)


def set_voxels(image: vtkImageData, array: np.ndarray, box: tuple[slice, slice, slice] = WHOLE) -> None:
    """Copy other voxels (k, j, i) into an image, and tell those who show it.

    Args:
        image: is written to.
        array: of the image's shape.
        box: where it differs from what the image holds.
    """
    voxels(image)[box] = array[box]
    image.GetPointData().GetScalars().Modified()
    image.Modified()


def held_slices(image: vtkImageData) -> np.ndarray:
    """(N,) the k, counted from 0, of those slices of an image that are not 0 everywhere."""
    return np.flatnonzero([np.count_nonzero(plane) for plane in voxels(image)])


def nonzero(image: vtkImageData) -> tuple[np.ndarray, np.ndarray]:
    """Where an image is not 0: VTK's own indices (3, N) in (i, j, k), and the values (N,).

    Quick where few slices hold anything, as with scribbles.
    """
    array, slices = voxels(image), held_slices(image)
    held = array[slices]
    # Much quicker than np.nonzero of three dimensions.
    flat = np.flatnonzero(held != 0)
    k, j, i = np.unravel_index(flat, held.shape)
    return np.stack([i, j, slices[k]]) + np.array(image.GetExtent()[::2])[:, None], held.ravel()[flat]
