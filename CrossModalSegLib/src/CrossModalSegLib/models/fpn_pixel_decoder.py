"""The pixel decoder of SEEM: a feature pyramid, with a transformer on the coarsest level alone.

From 1/32 to 1/4 each level adds the nearest-neighbour up-sampled level below it to a 1x1 convolution of the encoder's
map, and smooths the sum by a 3x3 convolution. The first three levels are what the queries attend to; another 3x3
convolution of the last gives the mask features.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.models.attention import AttentionBlock, FeedForwardBlock
from CrossModalSegLib.models.sine_position import sine_position

MAX_GROUPS = 32


class ConvNorm(nn.Module):
    """Convolution without bias, GroupNorm and, where asked for, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, relu: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(gcd(MAX_GROUPS, out_channels), out_channels)
        self.relu = relu
        initialize_conv(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        y = self.norm(self.conv(x))
        return functional.relu(y) if self.relu else y


class PixelEncoderLayer(nn.Module):
    """Self-attention of the pixels of a map, then a feed-forward block."""

    def __init__(self, channels: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = AttentionBlock(channels, heads, dropout)
        self.feedforward = FeedForwardBlock(channels, feedforward, dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """(B, h * w, C) -> the same shape; `position` is (h * w, C)."""
        return self.feedforward(self.attention(x, position, x + position, x))


class FpnPixelDecoder(nn.Module):
    """Feature maps of the encoder to levels of one width and to mask features."""

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        heads: int,
        feedforward: int,
        encoder_layers: int,
        dropout: float = 0.0,
    ) -> None:
        """A pixel decoder.

        Args:
            in_channels: Of the encoder's maps, from 1/4 to 1/32.
            channels: Of all levels and of the mask features.
            heads, feedforward, encoder_layers, dropout: Of the transformer on the coarsest level.
        """
        super().__init__()
        self.input = nn.Conv2d(in_channels[-1], channels, 1)
        initialize_conv(self.input)
        self.transformer = nn.ModuleList(
            PixelEncoderLayer(channels, heads, feedforward, dropout) for _ in range(encoder_layers)
        )
        self.laterals = nn.ModuleList(ConvNorm(each, channels, 1, relu=False) for each in in_channels[-2::-1])
        self.outputs = nn.ModuleList(ConvNorm(channels, channels, 3, relu=True) for _ in in_channels)
        self.mask_features = nn.Conv2d(channels, channels, 3, padding=1)
        initialize_conv(self.mask_features)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode.

        Args:
            features: Maps (B, C_i, h_i, w_i) from 1/4 to 1/32.

        Returns:
            The levels (B, C, h, w) at 1/32, 1/16 and 1/8, and the mask features (B, C, h, w) at 1/4.
        """
        y = self.outputs[0](self._attend(self.input(features[-1])))
        levels = [y]
        for lateral, output, finer in zip(self.laterals, self.outputs[1:], features[-2::-1]):
            side = lateral(finer)
            y = output(side + functional.interpolate(y, size=side.shape[-2:], mode="nearest"))
            levels.append(y)
        return levels[:-1], self.mask_features(levels[-1])

    def _attend(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        position = sine_position(h, w, x.shape[1], x.device)
        y = x.flatten(2).transpose(1, 2)
        for layer in self.transformer:
            y = layer(y, position)
        return y.transpose(1, 2).unflatten(2, (h, w))


def initialize_conv(conv: nn.Conv2d) -> None:
    """The uniform initialisation that detectron2 gives such layers."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
