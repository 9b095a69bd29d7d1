"""DA-VNet: a V-Net guided by dual attention.

Meng et al., "3D reconstruction-oriented fully automatic multi-modal tumor segmentation by dual attention-guided VNet",
The Visual Computer 39, 2023. Its code is not public; this follows what the abstract states of the two modules.

Notable in this network:
- channel attention (the role of the paper's multi-modal feature aggregation) weighs the features, which come from
  stacked modalities, by their global statistics at every scale;
- spatial attention (the role of its physiologically-sensitive feature enhancement) weighs voxels with a large window,
  for context around a tumour;
- both act on every skip and on the encoder's last feature map, as residuals: attention can raise a feature and never
  shut one off for good;
- encoder, decoder and bottleneck are those of the V-Net baseline, so that a comparison shows the attention alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.convolution import Conv3d
from CrossModalSegLib.models.input_check import require_images, require_sizes
from CrossModalSegLib.models.vnet import Normalization, VNetConfig, VNetDecoder, VNetEncoder


@dataclass(frozen=True)
class DAVNetConfig:
    """DA-VNet.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: the modalities, stacked.
        depth: As in `VNetConfig`.
        base_channels: As in `VNetConfig`.
        normalization: As in `VNetConfig`.
        dropout: At the bottleneck.
        reduction: Factor by which the channel attention narrows the channels.
        window: Edge of the spatial attention's kernel in voxels, odd.
    """

    num_classes: int = 2
    in_channels: int = 2
    depth: int = 4
    base_channels: int = 16
    normalization: Normalization = "instance"
    dropout: float = 0.5
    reduction: int = 4
    window: int = 7

    def __post_init__(self) -> None:
        require_sizes("DA-VNet", num_classes=self.num_classes, in_channels=self.in_channels, reduction=self.reduction)
        if self.window < 1 or self.window % 2 == 0:
            raise ModelError(f"The window of DA-VNet's spatial attention must be odd; got {self.window}.")
        self.branch()

    def branch(self) -> VNetConfig:
        """The configuration of the V-Net inside."""
        return VNetConfig(
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            depth=self.depth,
            base_channels=self.base_channels,
            normalization=self.normalization,
            dropout=self.dropout,
        )


class ChannelAttention(nn.Module):
    """Channel weights in (0, 1) from the mean and the maximum of each feature map."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        narrow = max(4, channels // reduction)
        self.weigh = nn.Sequential(nn.Linear(channels, narrow), nn.LeakyReLU(0.1), nn.Linear(narrow, channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, k, j, i) -> (N, C, 1, 1, 1)."""
        flat = features.flatten(2)
        weights = torch.sigmoid(self.weigh(flat.mean(2)) + self.weigh(flat.amax(2)))
        return weights[:, :, None, None, None]


class SpatialAttention(nn.Module):
    """Voxel weights in (0, 1) from the mean and the maximum over the channels."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.weigh = Conv3d(2, 1, window, padding=window // 2)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, k, j, i) -> (N, 1, k, j, i)."""
        statistics = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1)
        return torch.sigmoid(self.weigh(statistics))


class DualAttention(nn.Module):
    """Channel, then spatial attention, each as features * (1 + weights)."""

    def __init__(self, channels: int, reduction: int, window: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention(window)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape (N, C, k, j, i)."""
        features = features * (1.0 + self.channel(features))
        return features * (1.0 + self.spatial(features))


class DAVNet(nn.Module):
    """V-Net with dual attention on each of the encoder's feature maps."""

    def __init__(self, config: DAVNetConfig) -> None:
        super().__init__()
        self.config = config
        branch = config.branch()
        self.encoder = VNetEncoder(branch)
        self.attentions = nn.ModuleList(DualAttention(c, config.reduction, config.window) for c in branch.channels)
        self.decoder = VNetDecoder(branch)

    @property
    def divisor(self) -> int:
        """Each of k, j, i of an input must be a multiple of this."""
        return 2 ** self.config.branch().down_samplings

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits "out" (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        return {"out": self.segment(images)}

    def segment(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        require_images(images, self.config.in_channels, self.divisor, "DA-VNet")
        features = self.encoder(images)
        return self.decoder([attend(f) for attend, f in zip(self.attentions, features, strict=True)])
