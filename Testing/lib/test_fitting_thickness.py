"""How thick structures are, from strokes and image."""

from __future__ import annotations

import numpy as np
import pytest

from CrossModalSegLib.fitting.thickness import SLICES_AT_ONCE, thicknesses

SHAPE = (2 * SLICES_AT_ONCE + 3, 40, 60)


def bands() -> tuple[np.ndarray, np.ndarray]:
    """Two bands along i, of 9 and 15 voxels, and strokes along the middle of each and between them on odd slices."""
    image = np.zeros((1, *SHAPE), np.float32)
    image[:, :, 4:13], image[:, :, 20:35] = 1, 0.5
    scribbles = np.full(SHAPE, 255, np.uint8)
    scribbles[1::2, 8, 5:55], scribbles[1::2, 27, 5:55] = 1, 2
    scribbles[1::2, 16, 5:55], scribbles[1::2, 38, 5:55], scribbles[1::2, 1, 5:55] = 0, 0, 0
    return image, scribbles


def test_a_band_is_as_thick_as_it_is_wide_however_long_the_stroke():
    image, scribbles = bands()
    assert thicknesses(image, scribbles, (3.0, 1.0, 1.0)) == {1: pytest.approx(10), 2: pytest.approx(16)}
    assert thicknesses(image, scribbles, (3.0, 0.5, 1.0)) == {1: pytest.approx(5), 2: pytest.approx(8)}


def test_a_stroke_does_not_reach_into_other_slices():
    image, scribbles = bands()
    alone = scribbles.copy()
    alone[5:] = 255
    assert thicknesses(image, alone, (0.1, 1.0, 1.0)) == thicknesses(image, scribbles, (3.0, 1.0, 1.0))


def test_of_a_class_whose_slices_hold_nothing_else_nothing_is_known():
    image, scribbles = bands()
    scribbles[scribbles == 0] = 255
    scribbles[:9][scribbles[:9] == 2] = 255
    scribbles[9:][scribbles[9:] == 1] = 255
    assert thicknesses(image, scribbles, (3.0, 1.0, 1.0)) == {}
