"""A 3D segmentation network of densely connected blocks.

Huang et al., "Densely connected convolutional networks", CVPR 2017, in the encoder-decoder form of Jégou et al.,
"The one hundred layers tiramisu", CVPR Workshops 2017, in three dimensions.

Notable in this network:
- every layer of a block (norm, ReLU, 3x3x3 convolution) sees all maps of its block and adds `growth` new ones;
- a 1x1x1 convolution compresses a block's maps before they are average-pooled to half the resolution;
- the decoder upsamples trilinearly and compresses before each dense block, so that its width stays bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from CrossModalSegLib.models.convolution import Conv3d
from CrossModalSegLib.models.input_check import require_images, require_sizes


@dataclass(frozen=True)
class DenseUNetConfig:
    """The dense segmentation network.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: the modalities, stacked.
        base_channels: Channels of the first convolution.
        growth: New maps of each layer.
        layers: Layers of the encoder's blocks, from full resolution down; one less down-sampling than blocks.
        compression: Share of the maps that a transition keeps.
        dropout: Of whole feature maps after each layer.
    """

    num_classes: int = 2
    in_channels: int = 2
    base_channels: int = 24
    growth: int = 12
    layers: tuple[int, ...] = (3, 4, 4, 6, 8)
    compression: float = 0.5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require_sizes(
            "The dense network",
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            base_channels=self.base_channels,
            growth=self.growth,
            blocks=len(self.layers) - 1,
            layers=min(self.layers, default=0),
            compressed_channels=int(self.base_channels * self.compression),
        )


class DenseLayer(nn.Sequential):
    """Norm, ReLU, 3x3x3 convolution, dropout."""

    def __init__(self, in_channels: int, growth: int, dropout: float) -> None:
        super().__init__(
            nn.InstanceNorm3d(in_channels, affine=True),
            nn.ReLU(inplace=True),
            Conv3d(in_channels, growth, 3, padding=1, bias=False),
            nn.Dropout3d(dropout),
        )


class DenseBlock(nn.Module):
    """Layers that each see the input and all layers before them."""

    def __init__(self, in_channels: int, growth: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(in_channels + n * growth, growth, dropout) for n in range(layers))
        self.out_channels = in_channels + layers * growth

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, k, j, i) -> (N, out_channels, k, j, i)."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class Transition(nn.Sequential):
    """Norm, ReLU, 1x1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.InstanceNorm3d(in_channels, affine=True), nn.ReLU(inplace=True), Conv3d(in_channels, out_channels, 1)
        )


class DenseUNet(nn.Module):
    """Encoder and decoder of dense blocks."""

    def __init__(self, config: DenseUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Conv3d(config.in_channels, config.base_channels, 3, padding=1)
        self.encoder = nn.ModuleList()
        self.downs = nn.ModuleList()
        widths = []
        width = config.base_channels
        for count in config.layers:
            block = DenseBlock(width, config.growth, count, config.dropout)
            self.encoder.append(block)
            widths.append(block.out_channels)
            width = int(block.out_channels * config.compression)
            self.downs.append(Transition(block.out_channels, width))
        # The coarsest block goes up, not further down.
        del self.downs[-1]
        self.decoder = nn.ModuleList()
        self.ups = nn.ModuleList()
        width = widths[-1]
        for (skip, _), count in zip(list(pairwise(widths))[::-1], config.layers[-2::-1], strict=True):
            kept = max(config.growth, skip // 2)
            self.ups.append(Transition(width, kept))
            block = DenseBlock(kept + skip, config.growth, count, config.dropout)
            self.decoder.append(block)
            width = block.out_channels
        self.pool = nn.AvgPool3d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.head = nn.Sequential(nn.InstanceNorm3d(width, affine=True), nn.ReLU(inplace=True))
        self.classify = Conv3d(width, config.num_classes, 1)

    @property
    def divisor(self) -> int:
        """Each of k, j, i of an input must be a multiple of this."""
        return 2 ** (len(self.config.layers) - 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits "out" (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        return {"out": self.segment(images)}

    def segment(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        require_images(images, self.config.in_channels, self.divisor, "The dense network")
        x = self.encoder[0](self.stem(images))
        skips = []
        for down, block in zip(self.downs, self.encoder[1:], strict=True):
            skips.append(x)
            x = block(self.pool(down(x)))
        for up, block, skip in zip(self.ups, self.decoder, reversed(skips), strict=True):
            x = block(torch.cat([self.upsample(up(x)), skip], dim=1))
        return self.classify(self.head(x))
