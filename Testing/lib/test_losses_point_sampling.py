"""Values at points, and which points are uncertain."""

from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.losses.point_sampling import random_points, sample_points, uncertain_points


def test_values_are_bilinear():
    maps = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None]
    points = torch.tensor([[0.25, 0.25], [0.5, 0.25], [0.5, 0.5], [0.0, 0.0]])[None]
    assert sample_points(maps, points, (2, 2)).flatten().tolist() == pytest.approx([0.0, 0.5, 1.5, 0.0])


def test_a_coarser_map_may_reach_beyond_the_target():
    # Five cells of 4 columns over a target of 18: its right border is the middle of the last cell.
    maps = torch.arange(5.0).expand(1, 1, 5, 5)
    points = torch.tensor([[1.0, 0.5], [2 / 18, 0.5], [4 / 18, 0.5]])[None]
    assert sample_points(maps, points, (20, 18)).flatten().tolist() == pytest.approx([4.0, 0.0, 0.5], abs=1e-5)


def test_rows_and_columns_have_strides_of_their_own():
    """Two cells of 4 rows over 8, three of 3 columns over 9; up to the border a cell has its own value."""
    maps = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])[None, None]
    points = torch.tensor([[1.5 / 9, 2 / 8], [4.5 / 9, 2 / 8], [7.5 / 9, 6 / 8], [0.0, 0.0], [1.0, 1.0]])[None]
    assert sample_points(maps, points, (8, 9)).flatten().tolist() == pytest.approx([0.0, 1.0, 5.0, 0.0, 5.0], abs=1e-5)


def test_masks_and_half_precision_are_sampled_in_fp32():
    points = torch.full((1, 1, 2), 0.5)
    for maps in (torch.ones(1, 2, 4, 4, dtype=torch.bool), torch.ones(1, 2, 4, 4, dtype=torch.bfloat16)):
        values = sample_points(maps, points, (4, 4))
        assert values.dtype == torch.float32 and values.tolist() == [[[1.0], [1.0]]]


def test_three_quarters_of_the_points_are_undecided():
    # Certain but in the narrow strip around the middle column.
    logits = (torch.linspace(-20, 20, 64).expand(1, 64, 64)).contiguous()
    points = uncertain_points(logits, (64, 64), points=100, generator=torch.Generator().manual_seed(0))
    assert points.shape == (1, 100, 2) and (points >= 0).all() and (points < 1).all()
    far = (points[0, :, 0] - 0.5).abs()
    # The nearest 75 of 300 uniform points lie in about a quarter of the width.
    assert far[:75].max() < 0.17 < far[75:].max()


@pytest.mark.parametrize(("importance", "near"), [(0.0, False), (1.0, True)])
def test_the_share_of_undecided_points(importance, near):
    logits = torch.linspace(-20, 20, 64).expand(1, 64, 64).contiguous()
    generator = torch.Generator().manual_seed(0)
    points = uncertain_points(logits, (64, 64), 80, importance=importance, generator=generator)
    assert ((points[0, :, 0] - 0.5).abs().max() < 0.25) == near


def test_a_seed_decides():
    draws = [random_points(1, 4, "cpu", torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_maps_of_one_target_choose_from_the_same_points():
    steep = torch.linspace(-20, 20, 64).expand(64, 64)
    logits = torch.stack([steep, steep, steep.T])[None].repeat(2, 1, 1, 1)
    points = uncertain_points(logits, (64, 64), points=100, generator=torch.Generator().manual_seed(0))
    assert points.shape == (2, 3, 100, 2)
    torch.testing.assert_close(points[:, 0], points[:, 1])
    torch.testing.assert_close(points[:, 0, 75:], points[:, 2, 75:])
    assert (points[:, 0, :75, 0] - 0.5).abs().max() < 0.17 and (points[:, 2, :75, 1] - 0.5).abs().max() < 0.17
    assert uncertain_points(logits[:0], (64, 64), points=100).shape == (0, 3, 100, 2)
