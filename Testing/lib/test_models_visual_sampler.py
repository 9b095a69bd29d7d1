"""Visual tokens: which pixels, which features, and what several references make together."""

from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.sine_position import sine_places
from CrossModalSegLib.models.visual_sampler import (
    VisualSampler,
    VisualTokens,
    choose_points,
    fair_shares,
    sample_features,
    share_across_batch,
)


@pytest.mark.parametrize(
    ("counts", "total", "shares"),
    [
        ([3, 100, 100], 23, [3, 10, 10]),
        ([100, 3, 7], 20, [10, 3, 7]),
        ([2, 1], 512, [2, 1]),
        ([0, 9], 4, [0, 4]),
        ([5, 5], 3, [1, 1]),
        ([5, 5, 0], 1, [1, 1, 0]),
        ([0, 0], 8, [0, 0]),
    ],
)
def test_fair_shares(counts, total, shares):
    assert fair_shares(torch.tensor([counts]), total).tolist() == [shares]


def strokes(*cells, organs=2, size=(8, 8)):
    """Bool (1, organs, *size) with the cells (organ, row, column) drawn."""
    scribbles = torch.zeros(1, organs, *size, dtype=torch.bool)
    for cell in cells:
        scribbles[(0, *cell)] = True
    return scribbles


def test_points_are_pixel_centres_x_first():
    points, valid = choose_points(strokes((0, 1, 2), (1, 5, 0), (1, 5, 1)), 512, at_random=False)
    assert valid.tolist() == [[[True, False], [True, True]]]
    assert points[0, 0, 0].tolist() == [2.5, 1.5]
    assert points[0, 1].tolist() == [[0.5, 5.5], [1.5, 5.5]]


def test_evaluation_spreads_points_evenly():
    scribbles = strokes(*((0, 3, column) for column in range(8)), organs=1)
    points, _ = choose_points(scribbles, 4, at_random=False)
    assert points[0, 0, :, 0].tolist() == [1.5, 3.5, 5.5, 7.5]
    assert torch.equal(choose_points(scribbles, 4, at_random=False)[0], points)


def test_training_draws_points_of_the_organ_without_repeats():
    scribbles = torch.zeros(2, 2, 8, 8, dtype=torch.bool)
    scribbles[:, 0, :4] = True
    scribbles[1, 1, 4:] = True
    draws = [choose_points(scribbles, 6, True, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    points, valid = choose_points(scribbles, 6, True)
    assert valid.sum(-1).tolist() == [[6, 0], [3, 3]]
    for image, organ, rows in ((0, 0, (0, 4)), (1, 0, (0, 4)), (1, 1, (4, 8))):
        chosen = points[image, organ][valid[image, organ]]
        assert len(chosen.unique(dim=0)) == len(chosen)
        assert ((chosen[:, 1] > rows[0]) & (chosen[:, 1] < rows[1])).all()


def test_no_stroke_at_all_leaves_one_empty_place():
    points, valid = choose_points(strokes(), 512, at_random=True)
    assert points.shape == (1, 2, 1, 2) and not valid.any()


def test_features_are_sampled_where_the_pixel_is():
    # Cells of stride 4 have their centres at pixels 2, 6 and 10; the map is a ramp of x plus ten times a ramp of y.
    ramp = torch.arange(3.0)
    features = (ramp[None, :] + 10 * ramp[:, None])[None, None]
    points = torch.tensor([[2.0, 2.0], [6.0, 10.0], [4.0, 2.0], [0.5, 0.5]]).view(1, 1, 4, 2)
    assert sample_features(features, points, 4).flatten().tolist() == pytest.approx([0.0, 21.0, 0.5, 0.0], abs=1e-5)


def features(batch=1, channels=4, size=64):
    torch.manual_seed(3)
    levels = [torch.rand(batch, channels, size // s, size // s) for s in (32, 16, 8)]
    return levels, torch.rand(batch, channels, size // 4, size // 4)


def test_tokens_are_projected_features_plus_an_embedding():
    sampler = VisualSampler(4, 512).eval()
    levels, mask_features = features()
    tokens = sampler(levels, mask_features, strokes((0, 9, 20), (0, 40, 1), organs=1, size=(64, 64)))
    assert [tuple(level.shape) for level in tokens.levels] == [(1, 1, 2, 4)] * 3
    point = torch.tensor([[[[20.5, 9.5]]]])
    raw = sample_features(levels[1], point, 16)[0, 0, 0]
    torch.testing.assert_close(tokens.levels[1][0, 0, 0], sampler.projections[1].weight @ raw + sampler.embeddings[1])


def test_tokens_may_know_their_place():
    sampler = VisualSampler(8, 4, token_positions=True).eval()
    levels = [torch.zeros(1, 8, 1, 1), torch.zeros(1, 8, 1, 1), torch.zeros(1, 8, 1, 1)]
    drawn = strokes((0, 0, 3), (1, 7, 3), organs=2)
    tokens = sampler(levels, torch.zeros(1, 8, 2, 2), drawn)
    places = torch.tensor([[0.5 / 8, 3.5 / 8], [7.5 / 8, 3.5 / 8]])
    expected = sampler.embeddings[0] + sampler.places(sine_places(places, 8))
    torch.testing.assert_close(tokens.levels[0][0, :, 0], expected)


def test_the_prototype_is_the_mean_mask_feature_under_the_scribble():
    sampler = VisualSampler(4, 512).eval()
    levels, mask_features = features()
    tokens = sampler(levels, mask_features, strokes((0, 2, 2), (0, 2, 1), (0, 1, 1), (0, 1, 2), size=(64, 64)))
    assert tokens.organs.tolist() == [[True, False]]
    assert not tokens.prototype[0, 1].any() and tokens.prototype.dtype == torch.float32
    pixels = torch.tensor([[[[1.5, 1.5], [2.5, 1.5], [1.5, 2.5], [2.5, 2.5]]]])
    torch.testing.assert_close(tokens.prototype[0, 0], sample_features(mask_features, pixels, 4)[0, 0].mean(0))


def test_without_visual_tokens_there_are_prototypes_alone():
    sampler = VisualSampler(4, 512, visual_tokens=False)
    tokens = sampler(*features(), strokes((0, 1, 1), size=(64, 64)))
    assert tokens.levels == () and tokens.prototype[0, 0].any()
    assert list(sampler.parameters()) == []


def some_tokens(points, value, k=2):
    valid = torch.tensor(points)[None, :, None] > torch.arange(max(points))
    levels = tuple(torch.full((1, k, max(points), 3), float(value + i)) for i in range(3))
    prototype = torch.full((1, k, 3), float(value)) * (torch.tensor(points) > 0)[None, :, None]
    return VisualTokens(levels, valid, prototype, torch.tensor([points]) > 0)


def test_several_references_become_one():
    merged = VisualTokens.merge([some_tokens([1, 0], 1), some_tokens([3, 2], 5)])
    assert merged.valid.tolist() == [[[True, True, True, True], [False, True, True, False]]]
    assert merged.levels[2][0, 0, :, 0].tolist() == [3.0, 7.0, 7.0, 7.0]
    assert merged.prototype[0, :, 0].tolist() == [(1 + 3 * 5) / 4, 5.0]
    assert merged.organs.tolist() == [[True, True]]


def test_an_organ_in_no_reference_stays_without():
    merged = VisualTokens.merge([some_tokens([1, 0], 1), some_tokens([3, 0], 5)])
    assert merged.organs.tolist() == [[True, False]] and not merged.prototype[0, 1].any()


@pytest.mark.parametrize("parts", [[], [([1, 1], 2), ([1], 1)]])
def test_references_of_other_organs_are_not_merged(parts):
    with pytest.raises(ModelError, match="same batch and organs"):
        VisualTokens.merge([some_tokens(points, 0, k) for points, k in parts])


def test_indexing_and_expanding():
    both = VisualTokens.merge([some_tokens([1, 2], 1)]).expand(3)
    assert both.valid.shape == (3, 2, 2) and both.levels[0].shape == (3, 2, 2, 3)
    assert both.index([2, 0]).organs.shape == (2, 2)
    assert both.index(torch.tensor([1])).to("cpu").prototype[0, 0, 0] == 1.0
    with pytest.raises(ModelError, match="there are 3"):
        both.expand(2)


def test_across_the_batch_an_organ_gets_all_its_tokens():
    tokens = torch.arange(8.0).view(2, 2, 2, 1)
    valid = torch.tensor([[[True, True], [True, False]], [[True, False], [True, True]]])
    # Organ 7 is first in the first image and second in the second; 8 is in the first alone, 9 in the second.
    ids = torch.tensor([[7, 8], [9, 7]])
    (shared,), kept = share_across_batch([tokens], valid, ids, 512, None)
    assert kept.sum(-1).tolist() == [[4, 1], [1, 4]]
    assert sorted(shared[0, 0].flatten().tolist()) == sorted(shared[1, 1].flatten().tolist()) == [0.0, 1.0, 6.0, 7.0]
    assert shared[0, 1][kept[0, 1]].tolist() == [[2.0]]
    (_,), kept = share_across_batch([tokens], valid, ids, 3, torch.Generator().manual_seed(0))
    assert kept.sum(-1).tolist() == [[3, 1], [1, 3]]


def test_across_the_batch_is_for_training_and_needs_ids():
    sampler = VisualSampler(4, 512, across_batch=True)
    scribbles = strokes((0, 1, 1), size=(64, 64))
    with pytest.raises(ModelError, match="organ_ids"):
        sampler(*features(), scribbles)
    assert sampler(*features(), scribbles, torch.tensor([[1, 2]])).valid.sum() == 1
    assert sampler.eval()(*features(), scribbles).valid.sum() == 1


@pytest.mark.parametrize(
    "scribbles",
    [
        torch.zeros(1, 2, 60, 64, dtype=torch.bool),
        torch.zeros(2, 2, 64, 64, dtype=torch.bool),
        torch.zeros(1, 64, 64, dtype=torch.bool),
        torch.zeros(1, 2, 64, 64),
    ],
)
def test_scribbles_on_another_grid_are_told(scribbles):
    with pytest.raises(ModelError, match=r"bool of shape \(1, K, H, W\).*64 x 64"):
        VisualSampler(4, 512)(*features(), scribbles)
