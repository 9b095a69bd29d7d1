from __future__ import annotations

import math

import pytest
import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.dense_guidance import DenseGuidance


def guidance(channels: int = 2, num_classes: int = 2) -> DenseGuidance:
    torch.manual_seed(0)
    return DenseGuidance(channels, num_classes)


def test_features_that_say_the_class_cost_nothing():
    made = guidance()
    with torch.no_grad():
        made.semantic.weight.copy_(50.0 * torch.eye(2)[..., None, None])
        made.semantic.bias.zero_()
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, :, 4:] = 1
    features = torch.zeros(1, 2, 2, 2)
    features[:, 0, :, 0], features[:, 1, :, 1] = 1.0, 1.0
    assert made.classes(features, labels) < 1e-4
    assert made.classes(features.flip(1), labels) > 40


def test_labels_are_taken_from_the_middle_of_a_coarse_pixel():
    made = guidance()
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, [2, 2, 6, 6], [2, 6, 2, 6]] = 1
    features = torch.rand(1, 2, 2, 2)
    torch.testing.assert_close(made.classes(features, labels), made.classes(features, torch.ones_like(labels)))


def test_features_on_another_grid_are_refused():
    with pytest.raises(InputError, match="on a grid that divides theirs"):
        guidance().classes(torch.rand(1, 2, 3, 3), torch.zeros(1, 8, 8, dtype=torch.uint8))


def test_resemblance_by_hand():
    """One pixel along the prototype and in the organ, one across and outside: logits 5 and -5."""
    features = torch.tensor([[[[2.0, 0.0]], [[0.0, 3.0]]]])
    prototype = torch.tensor([[[7.0, 0.0]]])
    masks = torch.zeros(1, 1, 4, 8, dtype=torch.bool)
    masks[..., :4] = True
    p = 1 / (1 + math.exp(-5.0))
    expected = math.log1p(math.exp(-5.0)) + 1 - (2 * p + 1) / (p + (1 - p) + 1 + 1)
    got = guidance().resemblance(features, prototype, masks, torch.tensor([[True]]))
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_a_pixel_that_is_a_quarter_in_the_organ_is_a_quarter_wanted():
    """Across the prototype, so a logit of -5."""
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    masks[..., :2, :2] = True
    p = 1 / (1 + math.exp(5.0))
    bce = -0.25 * math.log(p) - 0.75 * math.log(1 - p)
    dice = 1 - (2 * 0.25 * p + 1) / (p + 0.25 + 1)
    features, prototype = torch.tensor([[[[0.0]], [[3.0]]]]), torch.tensor([[[7.0, 0.0]]])
    got = guidance().resemblance(features, prototype, masks, torch.tensor([[True]]))
    assert got.item() == pytest.approx(bce + dice, rel=1e-5)


def test_organs_that_do_not_count_do_not_count():
    features, prototype = torch.rand(2, 2, 2, 2), torch.rand(2, 2, 2)
    masks = torch.rand(2, 2, 8, 8) > 0.5
    wanted = torch.tensor([[True, False], [False, False]])
    made = guidance()
    alone = made.resemblance(features[:1], prototype[:1, :1], masks[:1, :1], torch.tensor([[True]]))
    torch.testing.assert_close(made.resemblance(features, prototype, masks, wanted), alone)


def test_none_that_counts_is_zero_with_a_graph():
    features = torch.rand(1, 2, 2, 2, requires_grad=True)
    loss = guidance().resemblance(
        features, torch.zeros(1, 1, 2), torch.zeros(1, 1, 8, 8).bool(), torch.tensor([[False]])
    )
    loss.backward()
    assert loss.item() == 0 and not features.grad.any()
