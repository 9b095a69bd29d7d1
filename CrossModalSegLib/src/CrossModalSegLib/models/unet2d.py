"""MONAI's 2D U-Net: what a network without a reference makes of one modality, for comparison."""

from __future__ import annotations

from dataclasses import dataclass

from monai.networks.nets import UNet
from torch import Tensor, nn

from CrossModalSegLib.errors import ModelError


@dataclass(frozen=True)
class UNet2dConfig:
    """A 2D U-Net with residual units.

    Attributes:
        num_classes: Background included.
        in_channels: Slices of an input, 1 + 2 * context.
        channels: Of each stage; each but the first halves the image.
        residual_units: Of each stage.
    """

    num_classes: int
    in_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 128, 256, 256)
    residual_units: int = 2

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.in_channels < 1 or len(self.channels) < 2 or min(self.channels) < 1:
            raise ModelError(
                f"A 2D U-Net needs at least 2 classes, 1 input channel and 2 stages of at least 1 channel; got {self}."
            )


class UNet2d(nn.Module):
    """MONAI's UNet in two dimensions; sides are multiples of `divisor`."""

    def __init__(self, config: UNet2dConfig) -> None:
        super().__init__()
        self.config = config
        self.divisor = 2 ** (len(config.channels) - 1)
        self.body = UNet(
            spatial_dims=2,
            in_channels=config.in_channels,
            out_channels=config.num_classes,
            channels=config.channels,
            strides=(2,) * (len(config.channels) - 1),
            num_res_units=config.residual_units,
            norm="instance",
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) in [0, 1] to logits (B, num_classes, H, W)."""
        return self.body(images)
