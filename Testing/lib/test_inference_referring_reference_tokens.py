"""Which scribbled slices serve which target slice, and what they say together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from CrossModalSegLib.inference.referring.reference_tokens import ReferenceTokens, organ_masks, slice_batches
from CrossModalSegLib.models.crossmr import VisualTokens


def tokens(value: float, counts: tuple[int, ...]) -> VisualTokens:
    """Of one slice: so many tokens of each organ, all of one value."""
    points = max(counts)
    valid = torch.arange(points) < torch.tensor(counts)[:, None]
    level = torch.full((1, len(counts), points, 4), value)
    prototype = torch.full((1, len(counts), 4), value) * (torch.tensor(counts) > 0)[:, None]
    return VisualTokens((level, level, level), valid[None], prototype, (torch.tensor(counts) > 0)[None])


def reference() -> ReferenceTokens:
    """Liver on slices 2, 5 and 9, spleen on slice 5 alone."""
    parts = (tokens(1.0, (2, 0)), tokens(4.0, (1, 3)), tokens(10.0, (1, 0)))
    return ReferenceTokens((2, 5, 9), parts, ((2, 5, 9), (5,)))


@pytest.mark.parametrize(
    ("position", "limit", "expected"),
    [
        (0.0, 1, ((2,), (5,))),
        (3.4, 1, ((2,), (5,))),
        (3.6, 1, ((5,), (5,))),
        (30.0, 1, ((9,), (5,))),
        (8.0, 2, ((5, 9), (5,))),
        (-4.0, 9, ((2, 5, 9), (5,))),
    ],
)
def test_each_organ_is_served_by_its_nearest_slices(position, limit, expected):
    assert reference().select(position, limit) == expected


def test_which_slices_have_a_stroke_on_which_organ():
    shown = reference().shown(11)
    assert (shown.shape, np.argwhere(shown).tolist()) == ((11, 2), [[2, 0], [5, 0], [5, 1], [9, 0]])


def test_a_slice_that_serves_one_organ_says_nothing_about_another():
    """Slice 9 for the liver, slice 5 for the spleen: the liver's token of slice 5 stays out."""
    merged = reference().merged(((9,), (5,)))
    assert merged.valid.sum(-1).tolist() == [[1, 3]]
    assert merged.prototype[0, :, 0].tolist() == [10.0, 4.0]
    assert merged.organs.tolist() == [[True, True]]
    assert merged.levels[0][0, 0][merged.valid[0, 0]].unique().tolist() == [10.0]


def test_several_slices_are_weighted_by_their_points():
    merged = reference().merged(((2, 5), (5,)))
    assert merged.valid.sum(-1).tolist() == [[3, 3]]
    assert merged.prototype[0, 0, 0].item() == pytest.approx((2 * 1.0 + 1 * 4.0) / 3)


def test_neighbours_with_the_same_selection_are_answered_together():
    a, b = ((2,),), ((5,),)
    batches = list(slice_batches([a, a, a, b, b, a], 2))
    assert batches == [(a, [0, 1]), (a, [2]), (b, [3, 4]), (a, [5])]
    assert list(slice_batches([], 2)) == []


def test_background_and_what_is_not_drawn_are_no_organs():
    masks = organ_masks(np.array([[[0, 1, 2, 255]]], np.uint8), 3)
    assert masks.shape == (1, 3, 1, 4)
    assert masks[0, :, 0].astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
