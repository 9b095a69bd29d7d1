"""Connected pieces of organs: which stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from CrossModalSegLib.inference.referring.pieces import without_small_pieces


def two_organs() -> np.ndarray:
    """Organ 1 in pieces of 10, 2 and 1 voxels, organ 2 in pieces of 3 and 2."""
    labels = np.zeros((3, 6, 6), np.uint8)
    labels[0, 0:3, 0:3] = labels[1, 3, 3] = 1  # joined by a corner
    labels[2, 5, 4:6] = 1
    labels[2, 0, 0] = 1
    labels[0, 5, 0:2] = 2
    labels[2, 2, 3:6] = 2
    return labels


@pytest.mark.parametrize(("pieces", "ones", "twos"), [("all", 13, 5), ("large", 12, 5), ("largest", 10, 3)])
def test_pieces_stay_by_their_share_of_the_largest(pieces, ones, twos):
    labels = two_organs()
    before = labels.copy()
    kept = without_small_pieces(labels, 3, pieces)
    assert [(kept == value).sum() for value in (1, 2, 3)] == [ones, twos, 0]
    assert ((kept == labels) | (kept == 0)).all()
    np.testing.assert_array_equal(labels, before)


def test_a_piece_under_a_stroke_on_its_organ_stays():
    strokes = np.full((3, 6, 6), 255, np.uint8)
    strokes[2, 0, 0] = 1
    strokes[2, 5, 5] = 2  # on organ 1
    kept = without_small_pieces(two_organs(), 2, "largest", strokes)
    assert kept[2, 0, 0] == 1 and (kept[2, 5] == 0).all() and (kept == 1).sum() == 11


def test_no_organ_at_all():
    assert not without_small_pieces(np.zeros((2, 3, 4), np.uint8), 3, "large").any()


@settings(max_examples=30)
@given(arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 2)))
def test_the_largest_piece_is_that_of_scipy(labels):
    kept = without_small_pieces(labels, 2, "largest")
    for value in (1, 2):
        found, count = ndimage.label(labels == value, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
        expected = np.isin(found, 1 + np.flatnonzero(sizes == sizes.max(initial=0)))
        np.testing.assert_array_equal(kept == value, expected)
