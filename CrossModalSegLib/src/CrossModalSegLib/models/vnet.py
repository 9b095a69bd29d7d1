"""The V-Net branch family of CmFNet (Table IV).

Notable in this network:
- channels 16-32-64-128-256(-256-256), one 3x3x3 stride-2 convolution between stages doubles them;
- 1-2-3-4-4-4-4 convolutions per stage, mirrored in the decoder, with parameter-free residual additions;
- depths 5 and 6 add stages at the resolution of the fourth down-sampling (conv5 and conv6 of Table IV);
- the skip is a concatenation that the decoder stage's first convolution reduces again;
- Dropout3d(0.5) after the bottleneck; a 1x1x1 head.

The paper prints parameter counts but no layer list and no normalisation; this recipe meets all four counts within 0.5 %
(7.93 / 19.65 / 35.58 / 51.51 M), and the normalisation is an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.convolution import Conv3d
from CrossModalSegLib.models.input_check import require_images, require_sizes

Normalization = Literal["none", "batch", "instance"]
CONVOLUTIONS_PER_STAGE = (1, 2, 3, 4, 4, 4, 4)
MAX_DOWN_SAMPLINGS = 4
BOTTLENECK_CONVOLUTIONS = 3


@dataclass(frozen=True)
class VNetConfig:
    """One V-Net branch.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: image modalities, and prompt channels where the network has any.
        depth: The d of CT_d and MR_d: 3 to 6. The branch has min(d, 4) down-samplings.
        base_channels: Channels at full resolution (16 in the paper); the widest stage has 16 times as many.
        normalization: Between each convolution and its PReLU.
        dropout: Probability of dropping a channel of the bottleneck.
    """

    num_classes: int = 2
    in_channels: int = 1
    depth: int = 3
    base_channels: int = 16
    normalization: Normalization = "instance"
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.depth not in (3, 4, 5, 6):
            raise ModelError(f"A V-Net branch has a depth of 3, 4, 5 or 6 (Table IV); got {self.depth}.")
        if self.num_classes < 2:
            raise ModelError(f"A network needs at least 2 classes, background included; got {self.num_classes}.")
        require_sizes("A V-Net branch", in_channels=self.in_channels, base_channels=self.base_channels)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the stages 0..depth."""
        return tuple(self.base_channels * 2 ** min(i, MAX_DOWN_SAMPLINGS) for i in range(self.depth + 1))

    @property
    def down_samplings(self) -> int:
        return min(self.depth, MAX_DOWN_SAMPLINGS)


def normalization_layers(kind: Normalization, channels: int) -> list[nn.Module]:
    """The layers, none or one, that normalise `channels` feature maps."""
    if kind == "batch":
        return [nn.BatchNorm3d(channels)]
    if kind == "instance":
        return [nn.InstanceNorm3d(channels, affine=True)]
    return []


class ConvUnit(nn.Sequential):
    """3x3x3 convolution, normalisation, per-channel PReLU."""

    def __init__(self, in_channels: int, out_channels: int, normalization: Normalization, stride: int = 1) -> None:
        super().__init__(
            Conv3d(in_channels, out_channels, 3, stride, padding=1),
            *normalization_layers(normalization, out_channels),
            nn.PReLU(out_channels),
        )


class UpUnit(nn.Sequential):
    """Transposed 3x3x3 convolution that doubles the resolution, normalisation, PReLU."""

    def __init__(self, in_channels: int, out_channels: int, normalization: Normalization) -> None:
        super().__init__(
            nn.ConvTranspose3d(in_channels, out_channels, 3, 2, padding=1, output_padding=1),
            *normalization_layers(normalization, out_channels),
            nn.PReLU(out_channels),
        )


def conv_stack(in_channels: int, out_channels: int, count: int, normalization: Normalization) -> nn.Sequential:
    """`count` ConvUnits, the first of which changes the number of channels."""
    widths = [in_channels] + [out_channels] * count
    return nn.Sequential(*(ConvUnit(a, b, normalization) for a, b in pairwise(widths)))


def add_residual(features: Tensor, source: Tensor) -> Tensor:
    """features + source where their channels agree, else features: a residual without parameters."""
    return features + source if source.shape[1] == features.shape[1] else features


class VNetEncoder(nn.Module):
    """The contracting path of a branch."""

    def __init__(self, config: VNetConfig) -> None:
        super().__init__()
        channels, norm = config.channels, config.normalization
        self.downs = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i, width in enumerate(channels):
            is_strided = 0 < i <= config.down_samplings
            entry = config.in_channels if i == 0 else width if is_strided else channels[i - 1]
            self.downs.append(ConvUnit(channels[i - 1], width, norm, stride=2) if is_strided else nn.Identity())
            self.stages.append(conv_stack(entry, width, CONVOLUTIONS_PER_STAGE[i], norm))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps f^0 .. f^depth of `images` (N, C, k, j, i); f^i has been down-sampled min(i, 4) times."""
        features = []
        x = images
        for down, stage in zip(self.downs, self.stages):
            x = down(x)
            x = add_residual(stage(x), x)
            features.append(x)
        return features


class VNetDecoder(nn.Module):
    """Bottleneck, expanding path and head of a branch."""

    def __init__(self, config: VNetConfig) -> None:
        super().__init__()
        channels, norm = config.channels, config.normalization
        width = min(2 * channels[-1], config.base_channels * 2**MAX_DOWN_SAMPLINGS)
        self.bottleneck = conv_stack(channels[-1], width, BOTTLENECK_CONVOLUTIONS, norm)
        self.dropout = nn.Dropout3d(config.dropout)
        self.ups = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i in reversed(range(config.depth)):
            is_strided = i + 1 <= config.down_samplings
            self.ups.append(UpUnit(width, channels[i], norm) if is_strided else nn.Identity())
            entry = (channels[i] if is_strided else width) + channels[i]
            self.stages.append(conv_stack(entry, channels[i], CONVOLUTIONS_PER_STAGE[i], norm))
            width = channels[i]
        self.head = Conv3d(width, config.num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, num_classes, k, j, i) from the encoder's feature maps f^0 .. f^depth."""
        x = self.dropout(self.bottleneck(features[-1]))
        for up, stage, skip in zip(self.ups, self.stages, reversed(features[:-1])):
            x = up(x)
            x = add_residual(stage(torch.cat([x, skip], dim=1)), x)
        return self.head(x)


class VNet(nn.Module):
    """A V-Net branch on its own: the CT_d and MR_d of Table IV, and the baseline of the compared methods."""

    def __init__(self, config: VNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VNetEncoder(config)
        self.decoder = VNetDecoder(config)

    @property
    def divisor(self) -> int:
        """Each of k, j, i of an input must be a multiple of this."""
        return 2**self.config.down_samplings

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits "out" (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        return {"out": self.segment(images)}

    def segment(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        require_images(images, self.config.in_channels, self.divisor, "V-Net")
        return self.decoder(self.encoder(images))
