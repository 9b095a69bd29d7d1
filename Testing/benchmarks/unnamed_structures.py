"""Structures of a CT that nobody has labelled, found by their CT numbers: bones, muscles, fat, chambers, bowel content.

They have no names, and none occurs in two patients; within one patient they are something to scribble on that is no
organ. So a network learns to go by strokes. Drawn after the idea of training with pseudo-labels of Ouyang et al.,
"Self-Supervision with Superpixels: Training Few-Shot Medical Image Segmentation without Annotation", ECCV 2020.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CrossModalSegLib.volume import Volume

# Fat; fluid; muscle; enhanced tissue, such as the heart's muscle; blood; bone and contrast medium.
BANDS_HU = ((-119, -50), (-10, 25), (35, 80), (85, 135), (140, 185), (195, 10_000))
SMOOTH_MM = 1.0
CORE_MM = 3.5  # thinner bridges between two structures are cut
SMALLEST_ML = 2.0
MOST = 50


def unnamed_structures(ct: Volume, mask: np.ndarray) -> np.ndarray:
    """Structures outside of the organs of a CT.

    Args:
        ct: CT numbers (k, j, i), HU.
        mask: (k, j, i), not 0 where there is an organ.

    Returns:
        (k, j, i) uint8: 1, 2, … from the largest on, at most `MOST`; 0 elsewhere.
    """
    hu = ndimage.gaussian_filter(ct.array.astype(np.float32), [SMOOTH_MM / size for size in ct.spacing], truncate=3.0)
    free = ~ndimage.binary_dilation(mask > 0)
    found: list[np.ndarray] = []
    for low, high in BANDS_HU:
        found += _pieces((hu > low) & (hu < high) & free, ct.spacing)
    found.sort(key=np.count_nonzero, reverse=True)
    structures = np.zeros(hu.shape, np.uint8)
    for value, piece in enumerate(found[:MOST], start=1):
        structures[piece] = value
    return structures


def _pieces(band: np.ndarray, spacing: tuple[float, float, float]) -> list[np.ndarray]:
    """What is thick enough of a band of CT numbers, in connected pieces with their rims."""
    depth = ndimage.distance_transform_edt(band, sampling=spacing)
    cores, count = ndimage.label(depth > CORE_MM)
    if not count:
        return []
    away, nearest = ndimage.distance_transform_edt(cores == 0, sampling=spacing, return_indices=True)
    labels = np.where(band & (away <= CORE_MM + max(spacing)), cores[tuple(nearest)], 0)
    ml = np.bincount(labels.ravel(), minlength=count + 1) * np.prod(spacing) / 1000
    return [labels == value for value in range(1, count + 1) if ml[value] >= SMALLEST_ML]
