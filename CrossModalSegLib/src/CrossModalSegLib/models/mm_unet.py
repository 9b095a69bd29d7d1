"""MM-UNet: a residual 3D U-Net that takes the modalities as input channels.

Ren et al., "Comparing different CT, PET and MRI multi-modality image combinations for deep learning-based head and neck
tumor segmentation", Acta Oncologica 60, 2021. Input-level fusion: nothing in the network knows of modalities.

Notable in this network:
- two 3x3x3 convolutions a stage with instance norm and LeakyReLU, around them a residual (1x1x1 where channels change);
- strided convolutions down, transposed ones up, channels doubled up to a limit;
- 1x1x1 head at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from CrossModalSegLib.models.convolution import Conv3d
from CrossModalSegLib.models.input_check import require_images, require_sizes


@dataclass(frozen=True)
class MMUNetConfig:
    """MM-UNet.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: the modalities, stacked.
        base_channels: Channels at full resolution.
        max_channels: Limit of the doubling.
        down_samplings: How often the resolution is halved.
        dropout: Of whole feature maps at the coarsest stage.
    """

    num_classes: int = 2
    in_channels: int = 2
    base_channels: int = 32
    max_channels: int = 320
    down_samplings: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_sizes(
            "MM-UNet",
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            base_channels=self.base_channels,
            max_channels=self.max_channels,
            down_samplings=self.down_samplings,
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the stages, from full resolution down."""
        return tuple(min(self.base_channels * 2**i, self.max_channels) for i in range(self.down_samplings + 1))


class ResidualBlock(nn.Module):
    """Two normalised 3x3x3 convolutions and a residual."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.InstanceNorm3d(out_channels, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
            Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.InstanceNorm3d(out_channels, affine=True),
        )
        is_plain = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if is_plain else Conv3d(in_channels, out_channels, 1, stride)
        self.activate = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, k, j, i) -> (N, out_channels, k, j, i), halved with a stride of 2."""
        return self.activate(self.body(x) + self.shortcut(x))


class MMUNet(nn.Module):
    """Residual U-Net over stacked modalities."""

    def __init__(self, config: MMUNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        entries = (config.in_channels, *channels[:-1])
        self.encoder = nn.ModuleList(
            ResidualBlock(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(zip(entries, channels, strict=True))
        )
        self.dropout = nn.Dropout3d(config.dropout)
        fine = channels[-2::-1]
        coarse = channels[:0:-1]
        self.ups = nn.ModuleList(nn.ConvTranspose3d(a, b, 2, 2) for a, b in zip(coarse, fine, strict=True))
        self.decoder = nn.ModuleList(ResidualBlock(2 * c, c) for c in fine)
        self.head = Conv3d(channels[0], config.num_classes, 1)

    @property
    def divisor(self) -> int:
        """Each of k, j, i of an input must be a multiple of this."""
        return 2**self.config.down_samplings

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits "out" (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        return {"out": self.segment(images)}

    def segment(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        require_images(images, self.config.in_channels, self.divisor, "MM-UNet")
        features = []
        x = images
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        x = self.dropout(x)
        for up, stage, skip in zip(self.ups, self.decoder, reversed(features[:-1]), strict=True):
            x = stage(torch.cat([up(x), skip], dim=1))
        return self.head(x)
