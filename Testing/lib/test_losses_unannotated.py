from __future__ import annotations

import math

import torch

from CrossModalSegLib.losses.full_supervision import full_supervision
from CrossModalSegLib.losses.unannotated import joined_with_background


def test_the_probability_of_an_unannotated_class_goes_to_the_background():
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])[..., None]
    annotated = torch.tensor([[True, True, False], [False, True, True]])
    joined = joined_with_background(logits, annotated)
    total = math.e + math.e**2 + math.e**3
    expected = torch.tensor([[math.e + math.e**3, math.e**2, 0.0], [math.e, math.e**2, math.e**3]]) / total
    torch.testing.assert_close(joined.softmax(1)[..., 0], expected)


def test_with_all_classes_annotated_logits_are_as_they_were():
    logits = torch.randn(2, 4, 3, 3)
    assert torch.equal(joined_with_background(logits, torch.ones(2, 4, dtype=torch.bool)), logits)


def test_no_loss_tells_an_unannotated_class_from_the_background():
    torch.manual_seed(0)
    logits, mask = torch.randn(1, 3, 4, 4), torch.tensor([0, 1]).repeat(1, 4, 2)
    swapped = logits[:, [2, 1, 0]].requires_grad_()
    annotated = torch.tensor([[True, True, False]])
    losses = [
        full_supervision(joined_with_background(each, annotated)[:, :, None], mask[:, None], "dice_ce")
        for each in (logits, swapped)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    losses[1].backward()
    assert swapped.grad.isfinite().all() and swapped.grad.any()
