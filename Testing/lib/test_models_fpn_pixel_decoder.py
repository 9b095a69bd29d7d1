"""The feature pyramid: what goes where."""

from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.models.fpn_pixel_decoder import ConvNorm, FpnPixelDecoder

CHANNELS = (2, 3, 4, 5)


def maps(h=20, w=12, batch=2):
    torch.manual_seed(1)
    return [torch.rand(batch, c, -(-h // 2**i), -(-w // 2**i)) for i, c in enumerate(CHANNELS)]


def decoder(layers=1):
    torch.manual_seed(0)
    return FpnPixelDecoder(CHANNELS, channels=8, heads=2, feedforward=16, encoder_layers=layers)


def test_shapes_also_where_sizes_do_not_halve():
    levels, mask_features = decoder()(maps(21, 13))
    assert [tuple(level.shape) for level in levels] == [(2, 8, 3, 2), (2, 8, 6, 4), (2, 8, 11, 7)]
    assert mask_features.shape == (2, 8, 21, 13)


@pytest.mark.parametrize("layers", [0, 2])
def test_every_parameter_gets_a_gradient(layers):
    network = decoder(layers)
    levels, mask_features = network(maps())
    sum((x * torch.randn_like(x)).sum() for x in (*levels, mask_features)).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_information_flows_from_coarse_to_fine():
    network, features = decoder(), maps()
    before, mask_before = network(features)
    features[2] = features[2] + 1.0 * torch.rand_like(features[2])
    after, mask_after = network(features)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1]) and not torch.equal(before[2], after[2])
    assert not torch.equal(mask_before, mask_after)


def test_the_transformer_sees_the_whole_coarsest_level():
    features = maps(64, 64, batch=1)
    features[3].requires_grad_()
    decoder(1)(features)[0][0][0, 0, 0, 0].backward()
    assert (features[3].grad.abs().sum(1) > 0).all()


def test_batches_are_independent():
    network, features = decoder(), maps()
    (one, _, _), masks = network(features)
    (alone, _, _), masks_alone = network([f[1:] for f in features])
    torch.testing.assert_close(one[1:], alone)
    torch.testing.assert_close(masks[1:], masks_alone)


def test_groups_of_the_normalisation_divide_the_channels():
    assert ConvNorm(3, 48, 1, relu=False).norm.num_groups == 16
    assert ConvNorm(3, 512, 1, relu=False).norm.num_groups == 32
