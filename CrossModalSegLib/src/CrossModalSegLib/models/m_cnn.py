"""M-CNN: one segmentation sub-network a modality, bound by a learned similarity of their features.

Ma et al., "Nasopharyngeal carcinoma segmentation based on enhanced convolutional neural networks using multi-modal
metric learning", Physics in Medicine & Biology 64, 2019. Its code is not public; this follows the paper's description:
both modalities are segmented by their own sub-network while a metric is learned that tells paired CT-MR features from
unpaired ones, so that the two guide each other.

Notable in this network:
- the sub-networks are residual encoder-decoders in 3D (the paper's work on 2D patches), so that Table III compares
  fusions and not dimensions;
- "out" is the mean of the modalities' probabilities, as log-probabilities, which are valid logits of that mean;
- in training "similarity" is the contrastive metric term, to be added to the segmentation loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.convolution import Conv3d
from CrossModalSegLib.models.input_check import require_images, require_sizes
from CrossModalSegLib.models.vnet import Normalization, VNetConfig, VNetDecoder, VNetEncoder, conv_stack

BRANCH_NAMES = ("ct", "mr")


@dataclass(frozen=True)
class MCNNConfig:
    """M-CNN for two modalities, or for one image in both sub-networks.

    Attributes:
        num_classes: Output channels, background included.
        modalities: 2, or 1: the same image goes into both sub-networks.
        depth: Of each sub-network, as in `VNetConfig`.
        base_channels: As in `VNetConfig`.
        normalization: As in `VNetConfig`.
        dropout: At the bottlenecks.
        embedding: Length of the vectors that the metric compares.
        margin: Distance that unpaired features shall keep at least; vectors have length 1.
    """

    num_classes: int = 2
    modalities: int = 2
    depth: int = 3
    base_channels: int = 16
    normalization: Normalization = "instance"
    dropout: float = 0.5
    embedding: int = 32
    margin: float = 1.0

    def __post_init__(self) -> None:
        require_sizes("M-CNN", num_classes=self.num_classes, embedding=self.embedding)
        if self.modalities not in (1, 2):
            raise ModelError(f"M-CNN takes one or two modalities; got {self.modalities}.")
        self.branch()

    def branch(self) -> VNetConfig:
        """The configuration of one sub-network."""
        return VNetConfig(
            num_classes=self.num_classes,
            in_channels=1,
            depth=self.depth,
            base_channels=self.base_channels,
            normalization=self.normalization,
            dropout=self.dropout,
        )


class MCNN(nn.Module):
    """Two sub-networks and a metric of their coarsest features."""

    def __init__(self, config: MCNNConfig) -> None:
        super().__init__()
        self.config = config
        branch = config.branch()
        self.encoders = nn.ModuleDict({name: VNetEncoder(branch) for name in BRANCH_NAMES})
        self.decoders = nn.ModuleDict({name: VNetDecoder(branch) for name in BRANCH_NAMES})
        width = branch.channels[-1]
        self.embeddings = nn.ModuleDict(
            {
                name: nn.Sequential(
                    conv_stack(width, config.embedding, 1, config.normalization),
                    Conv3d(config.embedding, config.embedding, 1),
                )
                for name in BRANCH_NAMES
            }
        )

    @property
    def divisor(self) -> int:
        """Each of k, j, i of an input must be a multiple of this."""
        return 2 ** self.config.branch().down_samplings

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predictions of both sub-networks and of their mean.

        Args:
            images: (N, modalities, k, j, i), CT first.

        Returns:
            Logits "ct" and "mr", log-probabilities "out", (N, num_classes, k, j, i) each; in training also
            "similarity", the contrastive loss of the metric, a scalar.
        """
        features = self._encode(images)
        predictions = self._decode(features)
        return {**predictions, "similarity": self._contrast(features)} if self.training else predictions

    def segment(self, images: Tensor) -> Tensor:
        """Only "out" of `forward`."""
        return self._decode(self._encode(images))["out"]

    def _decode(self, features: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        logits = {name: self.decoders[name](features[name]) for name in BRANCH_NAMES}
        log_y = torch.stack([value.float().log_softmax(1) for value in logits.values()])
        return {"out": log_y.logsumexp(0) - math.log(len(BRANCH_NAMES)), **logits}

    def _contrast(self, features: dict[str, list[Tensor]]) -> Tensor:
        """|e_ct - e_mr|^2 of pairs, relu(margin - |e_ct - e_mr|)^2 of non-pairs.

        A pair is one place of one patient; a non-pair is the MR embedding half a feature map away in every direction
        (of the next sample too, in a batch).
        """
        ct, mr = (
            functional.normalize(self.embeddings[name](features[name][-1]).float(), dim=1) for name in BRANCH_NAMES
        )
        other = mr.roll((1, *(size // 2 for size in mr.shape[2:])), (0, 2, 3, 4))
        pairs = (ct - mr).square().sum(1)
        # The root of a sum of squares has no finite gradient at 0.
        distance = ((ct - other).square().sum(1) + 1e-8).sqrt()
        return pairs.mean() + functional.relu(self.config.margin - distance).square().mean()

    def _encode(self, images: Tensor) -> dict[str, list[Tensor]]:
        require_images(images, self.config.modalities, self.divisor, "M-CNN")
        inputs = (images[:, :1], images[:, -1:])
        return {name: self.encoders[name](image) for name, image in zip(BRANCH_NAMES, inputs, strict=True)}
