"""Images made ready for registration, and coarser copies of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..errors import InputError
from ..volume import Volume, resample_orthogonal, volume_to_itk

_COARSEST_VOXELS = 14
_FEWEST_VOXELS = 4
_LEAST_FILLED = 0.005
_LEAST_AIR = 0.03


@dataclass(frozen=True, eq=False)
class Side:
    """One image made ready, and a mask of where it was measured."""

    image: sitk.Image
    mask: sitk.Image | None


def prepared(volume: Volume, name: str) -> Side:
    if min(volume.shape) < _FEWEST_VOXELS:
        raise InputError(
            f"Registration needs at least {_FEWEST_VOXELS} voxels along each axis; the {name} image has {volume.shape}."
        )
    array = np.asarray(volume.array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"The {name} image has values that are not finite numbers; replace them before registration.")
    if array.min() == array.max():
        raise InputError(f"The {name} image has the same value everywhere; there is nothing to register.")
    measured = _measured(array)
    # Few very bright or dark voxels (metal) would take most of the histogram's bins.
    # In the array's own type: both images of a registration have to be of one.
    low, high = np.percentile(array if measured is None else array[measured], (0.5, 99.5)).astype(array.dtype)
    if low < high:
        array = np.clip(array, low, high)
    # Centres of mass need values that are not negative.
    image = volume_to_itk(resample_orthogonal(volume.with_array(array - array.min())))
    if measured is None:
        return Side(image, None)
    return Side(image, volume_to_itk(resample_orthogonal(volume.with_array(measured.astype(np.uint8)), "nearest")))


def _measured(array: np.ndarray) -> np.ndarray | None:
    """Where an image was measured rather than filled up (as resampling does); None where all of it may be.

    Filled regions hold the exact minimum while measured air is noisy. Without them the step from tissue to the fill
    value would pull at the alignment.
    """
    filled = ndimage.binary_opening(array == array.min(), np.ones((3, 3, 3), dtype=bool))
    air = (array < np.quantile(array[~filled], 0.02) + 0.03 * np.ptp(array)) & ~filled
    if filled.mean() < _LEAST_FILLED or air.mean() < _LEAST_AIR:
        return None
    # Gradients at the region's rim would still reach into it.
    measured = ~ndimage.binary_dilation(filled, np.ones((3, 3, 3), dtype=bool))
    return measured if measured.any() else None


def resolutions(image: sitk.Image) -> list[float]:
    """Voxel sizes (mm) of up to three resolutions, coarse to fine; the last is about the finest of the image itself."""
    finest = float(min(image.GetSpacing()))
    shortest = float(extent(image).min())
    return [finest * scale for scale in (4, 2) if shortest / (finest * scale) >= _COARSEST_VOXELS] + [finest]


def coarser(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """The image with voxels of about `voxel_mm`, smoothed before; axes that are coarser already stay."""
    factors = _factors(image, voxel_mm)
    if max(factors) == 1:
        return image
    sigmas = [
        0.5 * factor * size if factor > 1 else 1e-3 * size
        for factor, size in zip(factors, image.GetSpacing(), strict=True)
    ]
    return sitk.Shrink(sitk.DiscreteGaussian(image, [sigma**2 for sigma in sigmas]), factors)


def blocks(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """The image by the means of blocks of at most about `voxel_mm`: quick, and what is finer leaves no pattern."""
    return sitk.BinShrink(image, _factors(image, voxel_mm))


def _factors(image: sitk.Image, voxel_mm: float) -> list[int]:
    """How many voxels become one along each axis; four of them stay at least."""
    factors = [max(1, int(voxel_mm / size + 0.25)) for size in image.GetSpacing()]
    return [min(factor, max(1, n // 4)) for factor, n in zip(factors, image.GetSize(), strict=True)]


def centre(image: sitk.Image) -> np.ndarray:
    """Middle of an image, LPS mm."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def extent(image: sitk.Image) -> np.ndarray:
    """Lengths of an image along its own axes, mm."""
    return np.multiply(image.GetSize(), image.GetSpacing())
