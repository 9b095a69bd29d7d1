"""3D convolutions whose gradients can be trusted on small grids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Voxels along the shortest axis up to which a CPU computes in float32.
SMALL_GRID = 2


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d`, in float32 on grids of one or two voxels along an axis under autocast on a CPU.

    On processors with AVX-512 but without AMX, oneDNN's bfloat16 weight gradient of such grids holds memory that was
    never written (torch 2.13; grids 2 voxels deep): huge numbers or NaN. These grids, at the bottom of a network, cost
    next to nothing in float32.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, k, j, i) -> (N, out_channels, k', j', i')."""
        is_small = images.device.type == "cpu" and min(images.shape[2:]) <= SMALL_GRID
        if not (is_small and torch.is_autocast_enabled("cpu")):
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            return super().forward(images.float())


def use_safe_convolutions(network: nn.Module) -> None:
    """Make every plain `torch.nn.Conv3d` of a network that another library built a `Conv3d`, in place."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Conv3d
