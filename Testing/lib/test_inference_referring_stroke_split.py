"""Strokes that are shown and strokes that judge."""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.inference.referring.stroke_split import random_stretch, split_strokes, strokes


def one_slice() -> np.ndarray:
    """A slanted stroke of 12 pixels, a dot of 4, and 8 pixels of background."""
    array = np.full((3, 20, 20), 255, np.uint8)
    for step in range(12):
        array[1, 4 + step // 2, 3 + step] = 1
    array[1, 15:17, 15:17] = 2
    array[1, 18, 2:10] = 0
    return array


def test_whole_slices_are_held_out_where_there_are_enough():
    array = np.full((9, 20, 20), 255, np.uint8)
    array[0:8, 4, 3:12] = 1
    array[0:8, 9, 3:12] = 0
    judge = split_strokes(array, 0.25, np.random.default_rng(0))
    held_out = (judge.held_out != 255).any(axis=(1, 2))
    assert held_out.sum() == 2
    assert (judge.shown[held_out] == 255).all()
    np.testing.assert_array_equal(np.minimum(judge.shown, judge.held_out), array)


def test_of_few_slices_a_stretch_of_each_longer_stroke_is_held_out():
    array = one_slice()
    judge = split_strokes(array, 0.25, np.random.default_rng(0))
    assert [(judge.held_out == value).sum() for value in (0, 1, 2)] == [2, 3, 0]
    np.testing.assert_array_equal(np.minimum(judge.shown, judge.held_out), array)
    assert not ((judge.shown != 255) & (judge.held_out != 255)).any()
    columns = np.argwhere(judge.held_out[1] == 1)[:, 1]
    assert np.ptp(columns) == 2  # a piece, no loose pixels


def test_strokes_are_in_order_along_their_length():
    found = strokes(one_slice())
    assert [len(each) for each in found] == [8, 12, 4]
    columns = found[1][:, 2]
    assert columns.tolist() in (list(range(3, 15)), list(range(14, 2, -1)))
    assert (found[1][:, 0] == 1).all()


def test_a_thick_stroke_is_in_order_along_its_length_too():
    """Two rows of ten pixels: row by row, a stretch of them would be long and thin."""
    array = np.full((1, 20, 20), 255, np.uint8)
    array[0, 4:6, 3:13] = 1
    columns = strokes(array)[0][:, 2].tolist()
    assert columns in (sorted(columns), sorted(columns, reverse=True))


def test_a_stretch_is_never_empty_and_never_too_long():
    where = np.arange(30).reshape(10, 3)
    rng = np.random.default_rng(0)
    assert len(random_stretch(where, 0.0, rng)) == 1
    assert len(random_stretch(where, 1.0, rng)) == 10
    for _ in range(20):
        part = random_stretch(where, 0.4, rng)
        assert len(part) == 4 and (np.diff(part[:, 0]) == 3).all()
