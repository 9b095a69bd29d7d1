"""DMSPS: dynamically mixed soft pseudo-labels of two decoders (Han et al., Medical Image Analysis 2024).

The public 3D code applies the cross-entropy to softmaxed outputs, which is a softmax too many; here it gets logits.
The second stage of the method, training on with confident pseudo-labels, is `TrainingConfig.second_stage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from CrossModalSegLib.losses.inside import inside_mean
from CrossModalSegLib.models.dual_decoder_vnet import MeanOfDecoders
from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.methods.method import Method, MethodSetting, with_total
from CrossModalSegLib.training.methods.supervision import supervise
from CrossModalSegLib.training.number_checks import check_weights


@dataclass(frozen=True)
class DmspsConfig:
    """Two decoders.

    Attributes:
        weight: Of the cross-entropy with the mixed soft pseudo-labels.
    """

    weight: float = 8.0

    def __post_init__(self) -> None:
        check_weights(self, "DMSPS", "weight")


class MixedPseudoLabels(Method):
    """L = (pCE_1 + pCE_2) / 2 + weight * (CE(y_1, m) + CE(y_2, m)) / 2, m = a y_1 + (1 - a) y_2, a random."""

    default_network: ClassVar[str] = "dual_decoder_vnet"
    required_outputs = ("out", "aux")

    def __init__(self, setting: MethodSetting, config: DmspsConfig, dice_weight: float = 0.0) -> None:
        super().__init__(setting)
        self.config = config
        self.dice_weight = dice_weight

    def loss(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Method`."""
        decoders = (outputs["out"], outputs["aux"])
        supervised = [supervise({"out": logits}, batch.labels, self.dice_weight, False) for logits in decoders]
        terms = {name: 0.5 * (supervised[0][name] + supervised[1][name]) for name in supervised[0]}
        mix = mixed_labels(*decoders, alpha=float(torch.rand(())))
        pseudo = 0.5 * sum(soft_cross_entropy(logits, mix, batch.inside) for logits in decoders)
        return with_total({**terms, "pseudo": self.config.weight * pseudo})

    def labelling_network(self, network: nn.Module) -> nn.Module:
        """Both decoders, as published: where they differ, their mean is uncertain, and no label is made."""
        return MeanOfDecoders(network)


def mixed_labels(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """alpha y_1 + (1 - alpha) y_2 from logits (N, K + 1, k, j, i), without a gradient."""
    with torch.no_grad():
        return alpha * first.softmax(1) + (1.0 - alpha) * second.softmax(1)


def soft_cross_entropy(logits: Tensor, target: Tensor, inside: Tensor | None = None) -> Tensor:
    """Mean over voxels inside (None: all) of -sum_c target_c log y_c; both (N, K + 1, k, j, i)."""
    return -inside_mean((target * logits.log_softmax(1)).sum(1, keepdim=True), inside)
