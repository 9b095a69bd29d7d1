"""Entropy, total variation, Mumford-Shah, consistency and full supervision, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.consistency import inter_modal_consistency
from CrossModalSegLib.losses.entropy_minimization import entropy_loss
from CrossModalSegLib.losses.full_supervision import full_supervision
from CrossModalSegLib.losses.mumford_shah import mumford_shah
from CrossModalSegLib.losses.total_variation import total_variation


@pytest.mark.parametrize("classes", [2, 5])
def test_entropy_is_one_for_uniform_and_zero_for_certain_predictions(classes):
    logits = torch.zeros(1, classes, 2, 2, 2)
    assert entropy_loss(logits).item() == pytest.approx(1.0)
    logits[:, 0] = 200.0
    logits.requires_grad_()
    loss = entropy_loss(logits)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(logits.grad).all()


def test_entropy_by_hand():
    p = torch.tensor([0.25, 0.75]).log().view(1, 2, 1, 1, 1)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert entropy_loss(p).item() == pytest.approx(expected, rel=1e-6)
    assert entropy_loss(p.bfloat16()).dtype == torch.float32


def one_step(axis):
    """Probabilities (2, 2, 2, 4, 4) with a step in class 1 of every sample along an axis."""
    p = torch.zeros(2, 2, 4, 4, 4)
    p[:, 1].narrow(axis + 1, 2, 2).fill_(1.0)
    p[:, 0] = 1 - p[:, 1]
    return p


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_differences_count_one_step_in_three(axis):
    p = one_step(axis)
    assert total_variation(p, "difference").item() == pytest.approx(1 / 3)
    assert total_variation(p, "difference", spacing=(4.0, 1.0, 1.0)).item() == pytest.approx(
        1 / 12 if axis == 0 else 1 / 3
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_contour_is_the_inner_layer_of_the_region(axis):
    # Erosion leaves the last layer of the two, dilation brings back the first: one layer of four.
    assert total_variation(one_step(axis), "contour").item() == pytest.approx(1 / 4)


def test_background_is_dropped_and_no_sample():
    p = one_step(1)
    p[0] = 0.5
    alone = total_variation(p[1:], "contour")
    assert total_variation(p, "contour").item() == pytest.approx(alone.item() / 2)
    background_only = torch.zeros(1, 2, 4, 4, 4)
    background_only[:, 0] = one_step(1)[:1, 1]
    assert total_variation(background_only, "contour").item() == 0.0
    assert total_variation(background_only.flip(1), "contour").item() > 0.0


def test_total_variation_of_single_slices_is_finite():
    p = torch.rand(1, 2, 1, 4, 4, requires_grad=True)
    loss = total_variation(p, "difference")
    loss.backward()
    assert torch.isfinite(loss)
    with pytest.raises(InputError, match="contour"):
        total_variation(p, "other")


def test_mumford_shah_of_a_perfect_partition_is_its_contour():
    p = one_step(2)
    images = p[:, 1:] * 0.6 + 0.1
    assert mumford_shah(p, images, contour_weight=0.0).item() == pytest.approx(0.0, abs=1e-6)
    assert mumford_shah(p, images).item() == pytest.approx(2 / 3)
    assert mumford_shah(p, images, reduction="sum").item() == pytest.approx(2 * 2 * 16, rel=1e-4)


def test_mumford_shah_by_hand_and_its_contour_has_a_gradient():
    p = torch.full((1, 2, 1, 1, 2), 0.5, requires_grad=True)
    images = torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2)
    # Both regions have the mean 0.5; each voxel is 0.5 away and belongs to them with 0.5 + 0.5.
    assert mumford_shah(p, images).item() == pytest.approx(0.25)
    q = torch.rand(1, 2, 3, 3, 3, requires_grad=True)
    constant = torch.full((1, 1, 3, 3, 3), 0.4)
    mumford_shah(q, constant).backward()
    assert q.grad.abs().sum() > 0


def test_consistency_by_hand_and_detached():
    fused, ct, mr = (torch.full((1, 2, 1, 1, 1), v, requires_grad=True) for v in (0.5, 0.7, 0.1))
    loss = inter_modal_consistency(fused, ct, mr, 0.8, 0.5)
    assert loss.item() == pytest.approx(0.8 * 0.04 + 0.5 * 0.16)
    inter_modal_consistency(fused, ct, mr, detach_fused=True).backward()
    assert fused.grad is None
    assert ct.grad is not None
    assert inter_modal_consistency(fused, ct, None, 0.8).item() == pytest.approx(0.8 * 0.04)
    with pytest.raises(InputError, match="got neither"):
        inter_modal_consistency(fused, None, None)
    with pytest.raises(InputError, match="one shape"):
        inter_modal_consistency(fused, ct[:, :1], None)


def test_full_supervision():
    logits = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.randint(0, 3, (2, 2, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    expected = torch.nn.functional.cross_entropy(logits, mask.long())
    torch.testing.assert_close(full_supervision(logits, mask), expected)
    y, target = logits.softmax(1), torch.nn.functional.one_hot(mask.long(), 3).movedim(-1, 1)
    axes = (0, 2, 3, 4)
    dice = 1 - 2 * (y * target).sum(axes)[1:] / (y.sum(axes) + target.sum(axes))[1:]
    torch.testing.assert_close(full_supervision(logits, mask, "dice_ce"), expected + dice.mean(), rtol=1e-4, atol=1e-5)
    for value in (3, 255):
        with pytest.raises(InputError, match=f"values 0..2; got {value}.*partial losses"):
            full_supervision(logits, torch.full_like(mask, value))
    with pytest.raises(InputError, match="dice_ce"):
        full_supervision(logits, mask, "focal")


def padded(*tensors):
    """Tensors with two more slices, rows and columns of nonsense, and what is inside."""
    larger = []
    for tensor in tensors:
        other = torch.rand(*tensor.shape[:2], *(n + 2 for n in tensor.shape[2:]))
        other[..., : tensor.shape[2], : tensor.shape[3], : tensor.shape[4]] = tensor
        larger.append(other)
    inside = torch.zeros(tensors[0].shape[0], *larger[0].shape[2:], dtype=torch.bool)
    inside[:, : tensors[0].shape[2], : tensors[0].shape[3], : tensors[0].shape[4]] = True
    return *larger, inside


REGULARISERS = {
    "entropy": lambda p, _image, inside=None: entropy_loss(p.log(), inside),
    "contour": lambda p, _image, inside=None: total_variation(p, inside=inside),
    "difference": lambda p, _image, inside=None: total_variation(p, "difference", spacing=(2, 1, 1), inside=inside),
    "ms": lambda p, image, inside=None: mumford_shah(p, image, inside=inside),
    "ms sum": lambda p, image, inside=None: mumford_shah(p, image, reduction="sum", inside=inside),
    "imc": lambda p, image, inside=None: inter_modal_consistency(p, image.expand_as(p), None, inside=inside),
}


@pytest.mark.parametrize("name", REGULARISERS)
def test_padding_is_left_out(name):
    loss = REGULARISERS[name]
    p, image = torch.rand(2, 3, 4, 5, 6).softmax(1), torch.rand(2, 1, 4, 5, 6)
    larger, larger_image, inside = padded(p, image)
    larger.requires_grad_()
    found = loss(larger, larger_image, inside)
    torch.testing.assert_close(found, loss(p, image))
    found.backward()
    assert larger.grad.masked_select(~inside[:, None]).abs().sum() == 0
    assert torch.isfinite(larger.grad).all()
    assert torch.isfinite(loss(p, image, torch.zeros(2, 4, 5, 6, dtype=torch.bool)))


@pytest.mark.parametrize("name", ["difference", "ms"])
def test_each_sample_has_its_spacing(name):
    p, image, spacings = torch.rand(2, 2, 4, 4, 4), torch.rand(2, 1, 4, 4, 4), ((3.0, 1.0, 1.0), (1.0, 1.0, 2.0))
    loss = {
        "difference": lambda q, _image, s: total_variation(q, "difference", spacing=s),
        "ms": lambda q, other, s: mumford_shah(q, other, spacing=s),
    }[name]
    apart = [loss(p[n : n + 1], image[n : n + 1], spacings[n]) for n in range(2)]
    torch.testing.assert_close(loss(p, image, spacings), sum(apart) / 2)
    with pytest.raises(InputError, match="one a sample; got 1 for 2"):
        loss(p, image, spacings[:1])
