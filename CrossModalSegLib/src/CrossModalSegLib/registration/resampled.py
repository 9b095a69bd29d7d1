"""The aligned image on the other one's grid."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..volume import Volume, resample_like, resample_orthogonal, volume_from_itk, volume_to_itk


def resampled(moving: Volume, fixed: Volume, transform: sitk.Transform) -> Volume:
    upright = resample_orthogonal(fixed)
    image = volume_to_itk(resample_orthogonal(moving))
    fill = float(np.min(moving.array))
    kind = moving.array.dtype
    between = sitk.sitkFloat64 if kind.kind != "f" or kind.itemsize > 4 else sitk.sitkFloat32
    result = volume_from_itk(sitk.Resample(image, volume_to_itk(upright), transform, sitk.sitkLinear, fill, between))
    if upright is not fixed:
        result = resample_like(result, fixed)
    # ITK would cut the fraction off, which makes an image of whole numbers darker by a half.
    return result if kind.kind == "f" else result.with_array(np.rint(result.array).astype(kind))
