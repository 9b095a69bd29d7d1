"""The two modules of CmFNet's cross-modal branch: fusion (CFF) and enhancement (CFE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from CrossModalSegLib.models.vnet import ConvUnit, Normalization

ENHANCEMENT_CONVOLUTIONS = 3


class CrossModalFeatureFusion(nn.Module):
    """CFF, Eq. 1: f_mm = PReLU(Conv3x3x3(Concat(f_ct, f_mr)))."""

    def __init__(self, channels: int, normalization: Normalization) -> None:
        super().__init__()
        self.fuse = ConvUnit(2 * channels, channels, normalization)

    def forward(self, ct: Tensor, mr: Tensor) -> Tensor:
        """Fuse two feature maps (N, C, k, j, i) of one stage into one of the same shape."""
        return self.fuse(torch.cat([ct, mr], dim=1))


class CrossModalFeatureEnhancement(nn.Module):
    """CFE, Eq. 2: a stride-2 convolution of the deepest common stage, then three convolution modules."""

    def __init__(self, in_channels: int, out_channels: int, normalization: Normalization) -> None:
        super().__init__()
        self.down = ConvUnit(in_channels, out_channels, normalization, stride=2)
        self.enhance = nn.Sequential(
            *(ConvUnit(out_channels, out_channels, normalization) for _ in range(ENHANCEMENT_CONVOLUTIONS))
        )

    def forward(self, fused: Tensor) -> Tensor:
        """(N, in_channels, k, j, i) -> (N, out_channels, k/2, j/2, i/2)."""
        x = self.down(fused)
        return self.enhance(x) + x
