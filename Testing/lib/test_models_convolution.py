"""3D convolutions under autocast on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from CrossModalSegLib.models.convolution import Conv3d, use_safe_convolutions
from CrossModalSegLib.models.factory import build_network


def weight_gradient(convolution, images, upstream, is_half):
    convolution.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        result = convolution(images)
    result.backward(upstream.to(result.dtype))
    return convolution.weight.grad.clone()


@pytest.mark.parametrize(
    ("shape", "stride"), [((2, 4, 4), 1), ((2, 2, 2), 1), ((8, 8, 1), 2), ((1, 1, 1), 2), ((4, 4, 4), 1)]
)
def test_gradients_in_bfloat16_are_those_of_float32_on_small_grids_too(shape, stride):
    torch.manual_seed(0)
    convolution = Conv3d(16, 16, 3, stride, padding=1)
    for _ in range(5):  # what was never written differs from time to time
        images = torch.randn(1, 16, *shape)
        upstream = torch.randn_like(convolution(images))
        exact = weight_gradient(convolution, images, upstream, is_half=False)
        half = weight_gradient(convolution, images, upstream, is_half=True)
        torch.testing.assert_close(half, exact, atol=0.02 * exact.abs().max().item(), rtol=0)


def test_only_small_grids_are_computed_in_float32():
    convolution = Conv3d(2, 2, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(torch.rand(1, 2, 2, 4, 4)).dtype == torch.float32
        assert convolution(torch.rand(1, 2, 4, 4, 4)).dtype == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")


def test_convolutions_of_other_libraries_are_replaced_in_place():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv2d(1, 2, 3))
    names = list(network.state_dict())
    use_safe_convolutions(network)
    assert type(network[0]) is Conv3d and type(network[1]) is nn.Conv2d and list(network.state_dict()) == names


@pytest.mark.parametrize("name", ["cmfnet", "vnet", "da_vnet", "dense_unet", "m_cnn", "mm_unet", "resunet", "dynunet"])
def test_every_network_of_volumes_has_such_convolutions(name):
    with torch.device("meta"):
        network = build_network(name, {})
    assert not [module for module in network.modules() if type(module) is nn.Conv3d]
