"""The position encoding, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.sine_position import sine_places, sine_position


def test_by_hand():
    # The only row is at 2 pi, the columns at pi and 2 pi: sine, cosine of the row, then of the column.
    expected = torch.tensor([[0.0, 1.0, 0.0, -1.0], [0.0, 1.0, 0.0, 1.0]])
    torch.testing.assert_close(sine_position(1, 2, 4), expected, atol=1e-6, rtol=0)


def test_the_second_pair_is_slower():
    angle = 2 * math.pi / 10000**0.5
    row = torch.tensor([0.0, 1.0, math.sin(angle), math.cos(angle)])
    torch.testing.assert_close(sine_position(1, 1, 8)[0], torch.cat([row, row]), atol=1e-6, rtol=0)


def test_pixels_go_row_by_row():
    position = sine_position(2, 3, 8)
    assert position.shape == (6, 8)
    assert torch.equal(position[0, :4], position[2, :4])
    assert torch.equal(position[0, 4:], position[3, 4:])


def test_channels_are_checked():
    with pytest.raises(ModelError, match="multiple of 4 channels; got 6"):
        sine_position(1, 1, 6)


def test_a_place_is_encoded_like_the_pixel_that_ends_there():
    pixels = sine_position(2, 4, 8).view(2, 4, 8)
    torch.testing.assert_close(sine_places(torch.tensor([[0.5, 0.75], [1.0, 0.25]]), 8), pixels[[0, 1], [2, 0]])
