"""Partial cross-entropy and partial Dice, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.labelled_voxels import LabelledVoxels
from CrossModalSegLib.losses.partial_cross_entropy import partial_cross_entropy


def partial_dice(logits, scribbles, **options):
    return LabelledVoxels.of([logits], scribbles).dice(**options)[0]


def two_voxels(*probabilities):
    """Logits (1, 2, 1, 1, n) whose softmax gives class 1 the probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([1 - p, p]).log().view(1, 2, 1, 1, -1).requires_grad_()


def labels(*values):
    return torch.tensor(values, dtype=torch.uint8).view(1, 1, 1, -1)


def test_cross_entropy_is_the_mean_over_labelled_voxels():
    loss = partial_cross_entropy(two_voxels(0.8, 0.3, 0.5), labels(1, 0, 255))
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2)


def test_unlabelled_voxels_get_no_gradient():
    logits = two_voxels(0.8, 0.3, 0.5)
    partial_cross_entropy(logits, labels(1, 0, 255)).backward()
    assert torch.equal(logits.grad[..., 2], torch.zeros_like(logits.grad[..., 2]))
    assert (logits.grad[..., :2] != 0).all()


@pytest.mark.parametrize("loss", [partial_cross_entropy, partial_dice])
def test_nothing_labelled_is_zero_with_a_graph(loss):
    logits = two_voxels(0.8, 0.3)
    value = loss(logits, labels(255, 255))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", [partial_cross_entropy, partial_dice])
def test_bf16_logits_are_computed_in_fp32(loss):
    assert loss(two_voxels(0.8, 0.3).detach().bfloat16(), labels(1, 0)).dtype == torch.float32


@pytest.mark.parametrize("loss", [partial_cross_entropy, partial_dice])
def test_shapes_are_checked(loss):
    with pytest.raises(InputError, match="on one grid"):
        loss(two_voxels(0.8, 0.3), labels(1, 0, 255))


def test_dice_counts_labelled_voxels_only():
    loss = partial_dice(two_voxels(0.8, 0.3, 0.5), labels(1, 0, 255), smooth=0.0)
    assert loss.item() == pytest.approx(1 - 2 * 0.8 / (0.8 + 0.3 + 1))


def test_dice_is_smoothed_in_the_denominator_alone():
    loss = partial_dice(two_voxels(0.8, 0.3), labels(1, 0), smooth=1.0)
    assert loss.item() == pytest.approx(1 - 2 * 0.8 / (0.8 + 0.3 + 1 + 1))


def test_dice_with_background_is_the_mean_over_scribbled_classes():
    loss = partial_dice(two_voxels(0.8, 0.3), labels(1, 0), include_background=True, smooth=0.0)
    assert loss.item() == pytest.approx(1 - (2 * 0.8 / 2.1 + 2 * 0.7 / 1.9) / 2)


def test_dice_leaves_out_classes_without_a_scribble():
    logits = torch.zeros(1, 3, 1, 1, 2, dtype=torch.float64)
    loss = partial_dice(logits, labels(1, 0), smooth=0.0)
    assert loss.item() == pytest.approx(1 - 2 * (1 / 3) / (2 / 3 + 1))
