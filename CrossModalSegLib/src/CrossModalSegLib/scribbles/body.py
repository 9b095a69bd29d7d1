"""Where the body is in an image, so that simulated background is painted on it and not on the air around."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_fill_holes, binary_opening, label

_SAMPLES = 200_000
_DARK_TISSUE_SHARE = 0.25


def body_mask(image: np.ndarray) -> np.ndarray:
    """Boolean (k, j, i): the largest object brighter than air, with its holes filled in each axial slice.

    Args:
        image: (k, j, i), CT in HU (air is below -300 HU), or another modality (a threshold by Otsu's method, which may
            lose dark tissue at the skin).

    Returns:
        Boolean (k, j, i); all true when the image shows no object against a darker background.
    """
    bright = binary_opening(image > _air_threshold(image), np.ones((1, 3, 3), dtype=bool))
    parts, count = label(bright)
    if count == 0:
        return np.ones(image.shape, dtype=bool)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.stack([binary_fill_holes(slice_) for slice_ in largest])


def _air_threshold(image: np.ndarray) -> float:
    """-300 HU for CT with air, otherwise a quarter of the way from the air of Otsu's two classes to its tissue."""
    darkest = float(image.min())
    if darkest <= -900.0:
        return -300.0
    values = image.ravel()[:: max(1, image.size // _SAMPLES)].astype(np.float32)
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(values[None]))
    below = values <= otsu.GetThreshold()
    if below.all() or not below.any():
        return float(otsu.GetThreshold())
    air, tissue = float(np.median(values[below])), float(np.median(values[~below]))
    return air + _DARK_TISSUE_SHARE * (tissue - air)
