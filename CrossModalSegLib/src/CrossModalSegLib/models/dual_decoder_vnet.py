"""V-Net with one encoder and two decoders, the network of DMSPS.

Han et al., "DMSPS: Dynamically mixed soft pseudo-label supervision for scribble-supervised medical image segmentation",
Medical Image Analysis 97, 2024; first in Luo et al., MICCAI 2022.

Notable in this network:
- both decoders see the same encoder; the auxiliary one sees every feature map through dropout (0.5), so that the two
  predictions differ and can be mixed into soft pseudo-labels;
- inference uses the main decoder alone; pseudo-labels of the second stage are made by both (`MeanOfDecoders`);
- the predictions are logits, never softmaxed: the loss does that once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from CrossModalSegLib.models.input_check import require_images, require_sizes
from CrossModalSegLib.models.vnet import Normalization, VNetConfig, VNetDecoder, VNetEncoder


@dataclass(frozen=True)
class DualDecoderVNetConfig:
    """The dual-decoder V-Net.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: the modalities, stacked.
        depth: As in `VNetConfig`.
        base_channels: As in `VNetConfig`.
        normalization: As in `VNetConfig`.
        dropout: At the bottleneck of both decoders.
        auxiliary_dropout: Of whole feature maps in front of the auxiliary decoder.
    """

    num_classes: int = 2
    in_channels: int = 2
    depth: int = 4
    base_channels: int = 16
    normalization: Normalization = "instance"
    dropout: float = 0.5
    auxiliary_dropout: float = 0.5

    def __post_init__(self) -> None:
        require_sizes("The dual-decoder V-Net", num_classes=self.num_classes, in_channels=self.in_channels)
        self.branch()

    def branch(self) -> VNetConfig:
        """The configuration of the encoder and of each decoder."""
        return VNetConfig(
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            depth=self.depth,
            base_channels=self.base_channels,
            normalization=self.normalization,
            dropout=self.dropout,
        )


class DualDecoderVNet(nn.Module):
    """Shared V-Net encoder, main and auxiliary decoder."""

    def __init__(self, config: DualDecoderVNetConfig) -> None:
        super().__init__()
        self.config = config
        branch = config.branch()
        self.encoder = VNetEncoder(branch)
        self.decoder = VNetDecoder(branch)
        self.auxiliary_decoder = VNetDecoder(branch)
        self.auxiliary_dropout = nn.Dropout3d(config.auxiliary_dropout)

    @property
    def divisor(self) -> int:
        """Each of k, j, i of an input must be a multiple of this."""
        return 2 ** self.config.branch().down_samplings

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits "out" (main) and "aux" (auxiliary decoder), (N, num_classes, k, j, i) each, of (N, in_channels, …)."""
        features = self._encode(images)
        auxiliary = [self.auxiliary_dropout(f) for f in features]
        return {"out": self.decoder(features), "aux": self.auxiliary_decoder(auxiliary)}

    def segment(self, images: Tensor) -> Tensor:
        """Only "out" of `forward`."""
        return self.decoder(self._encode(images))

    def _encode(self, images: Tensor) -> list[Tensor]:
        require_images(images, self.config.in_channels, self.divisor, "The dual-decoder V-Net")
        return self.encoder(images)


class MeanOfDecoders(nn.Module):
    """A dual-decoder network whose answer is the mean of both decoders' probabilities."""

    def __init__(self, network: DualDecoderVNet) -> None:
        super().__init__()
        self.network = network
        self.divisor = network.divisor
        self.train(network.training)

    def segment(self, images: Tensor) -> Tensor:
        """Log-probabilities (N, num_classes, k, j, i) of `images` (N, in_channels, k, j, i)."""
        log_y = torch.stack([logits.float().log_softmax(1) for logits in self.network(images).values()])
        return log_y.logsumexp(0) - math.log(len(log_y))
