"""Matching, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.organ_matching import match, matching_cost
from CrossModalSegLib.models.masked_decoder import Prediction

GENERATOR_SEED = 0


def prediction(masks):
    """Of logits (B, K, N, h, w)."""
    return Prediction(masks, torch.zeros(masks.shape[:3]), torch.zeros(masks.shape[:3]), 0)


def half(side):
    """(8, 8) bool: the left or the right half."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    if side == "left":
        mask[:, :4] = True
    else:
        mask[:, 4:] = True
    return mask


def logits(mask):
    return torch.where(mask, 5.0, -5.0)


def run(masks, targets, present, **options):
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    matched = match([prediction(masks)], targets, torch.tensor(present), points=200, generator=generator, **options)
    return matched[0].tolist()


def test_the_cost_by_hand():
    masks = torch.tensor([[[0.0, 2.0]]])
    targets = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    q = 1 / (1 + math.exp(-2))
    bce = [(math.log(2) - math.log(1 - q)) / 2, (math.log(2) - math.log(q)) / 2]
    dice = [1 - (2 * 0.5 + 1) / (0.5 + q + 1 + 1), 1 - (2 * (0.5 + q) + 1) / (0.5 + q + 2 + 1)]
    cost = matching_cost(masks, targets)
    assert cost.flatten().tolist() == pytest.approx([2 * b + 2 * d for b, d in zip(bce, dice)], rel=1e-5)
    assert matching_cost(masks.bfloat16(), targets).dtype == torch.float32


def crossed():
    """Two organs of two queries; organ 0 is on the left, and only a query of organ 1 says so."""
    nothing = torch.full((8, 8), -5.0)
    masks = torch.stack(
        [torch.stack([nothing, logits(half("right"))]), torch.stack([nothing - 1, logits(half("left"))])]
    )
    return masks[None], torch.stack([half("left"), half("right")])[None]


def test_an_organ_is_matched_with_its_own_queries():
    masks, targets = crossed()
    # All own queries are wrong: the one that claims nothing costs less than the one that claims the other side.
    assert run(masks, targets, [[True, True]]) == [[0, 2]]


def test_without_organ_matching_queries_of_others_are_taken():
    masks, targets = crossed()
    assert run(masks, targets, [[True, True]], within_organ=False) == [[3, 1]]


def test_each_query_is_taken_once():
    masks, targets = crossed()
    left = targets[:, :1].expand(-1, 2, -1, -1)
    matched = run(masks, left, [[True, True]], within_organ=False)[0]
    assert 3 in matched and len(set(matched)) == 2


@pytest.mark.parametrize("within_organ", [True, False])
def test_absent_organs_and_their_queries_take_no_part(within_organ):
    masks, targets = crossed()
    assert run(masks, targets, [[True, False]], within_organ=within_organ) == [[0, -1]]
    assert run(masks, targets, [[False, False]], within_organ=within_organ) == [[-1, -1]]


def test_images_are_matched_apart():
    masks, targets = crossed()
    both = torch.cat([masks, masks.flip(1)]), torch.cat([targets, targets])
    assert run(*both, [[True, True], [True, True]]) == [[0, 2], [1, 3]]


def test_targets_may_be_finer_than_masks():
    masks, targets = crossed()
    coarse = masks.flip(1)[..., ::4, ::4]
    assert run(coarse, targets, [[True, True]]) == [[1, 3]]


@pytest.mark.parametrize(
    ("targets", "present"),
    [((1, 3, 8, 8), (1, 2)), ((1, 2, 8, 8), (1, 3)), ((1, 2, 8), (1, 2))],
)
def test_shapes_are_checked(targets, present):
    masks, _ = crossed()
    with pytest.raises(InputError, match=r"targets \(1, 2, H, W\)"):
        match([prediction(masks)], torch.zeros(targets), torch.ones(present, dtype=torch.bool))
