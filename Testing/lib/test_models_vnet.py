"""The V-Net branches of Table IV."""

from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.vnet import VNet, VNetConfig

# Depth -> parameters in millions, as printed in Table IV, and down-samplings.
TABLE_IV = {3: (7.94, 3), 4: (19.57, 4), 5: (35.57, 4), 6: (51.56, 4)}
NORMALIZATIONS = ("none", "batch", "instance")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("depth", TABLE_IV)
def test_parameter_counts_of_table_4(depth, normalization):
    with torch.device("meta"):
        network = VNet(VNetConfig(depth=depth, normalization=normalization))
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(TABLE_IV[depth][0], rel=0.01)


@pytest.mark.parametrize("depth", TABLE_IV)
def test_down_samplings_of_table_4(depth):
    config = VNetConfig(depth=depth, base_channels=2)
    features = VNet(config).encoder(torch.rand(1, 1, 16, 32, 32))
    assert config.down_samplings == TABLE_IV[depth][1]
    assert len(features) == depth + 1
    expected = [(16 >> min(i, 4), 32 >> min(i, 4), 32 >> min(i, 4)) for i in range(depth + 1)]
    assert [tuple(f.shape[2:]) for f in features] == expected
    assert [f.shape[1] for f in features] == list(config.channels)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("depth", TABLE_IV)
def test_shapes_gradients_and_segment(depth, normalization):
    torch.manual_seed(0)
    network = VNet(VNetConfig(3, 2, depth, base_channels=4, normalization=normalization))
    images = torch.rand(2, 2, 16, 32, 32)
    logits = network(images)["out"]
    assert logits.shape == (2, 3, 16, 32, 32)
    logits.square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    assert torch.equal(network.segment(images), network(images)["out"])


@pytest.mark.parametrize("depth", TABLE_IV)
def test_the_divisor_is_enough(depth):
    network = VNet(VNetConfig(depth=depth, base_channels=2)).eval()
    size = network.divisor
    assert network.segment(torch.rand(1, 1, size, 2 * size, 3 * size)).shape == (1, 2, size, 2 * size, 3 * size)


@pytest.mark.parametrize("options", [{"depth": 2}, {"depth": 7}, {"num_classes": 1}])
def test_wrong_configurations_are_told(options):
    with pytest.raises(ModelError, match="got"):
        VNetConfig(**options)


def test_images_that_do_not_fit_are_told():
    network = VNet(VNetConfig(base_channels=2))
    with pytest.raises(ModelError, match=r"\(N, 1, k, j, i\); got \(1, 2, 16, 32, 32\)"):
        network(torch.rand(1, 2, 16, 32, 32))
    with pytest.raises(ModelError, match=r"multiples of 8; got \(12, 32, 32\)"):
        network.segment(torch.rand(1, 1, 12, 32, 32))
