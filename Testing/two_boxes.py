"""Two boxes on a small grid, and strokes on them."""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.labels import UNLABELLED

SHAPE = (8, 24, 24)


def mask_array() -> np.ndarray:
    """Two boxes, classes 1 and 2."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 4:11, 4:11] = 1
    mask[1:7, 14:21, 13:20] = 2
    return mask


def scribble_array() -> np.ndarray:
    """Some voxels of both classes and of the background on four slices."""
    scribbles = np.full(SHAPE, UNLABELLED, np.uint8)
    for k in (2, 3, 4, 5):
        scribbles[k, 7, 5:10] = 1
        scribbles[k, 17, 14:19] = 2
        scribbles[k, 1, 1:22] = 0
        scribbles[k, 12, 2:22] = 0
    return scribbles
