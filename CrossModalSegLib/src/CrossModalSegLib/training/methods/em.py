"""Entropy minimisation (Grandvalet and Bengio, NeurIPS 2004)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from CrossModalSegLib.losses.entropy_minimization import DEFAULT_WEIGHT, entropy_loss
from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.methods.method import MethodSetting
from CrossModalSegLib.training.methods.pce import PartialCrossEntropy
from CrossModalSegLib.training.number_checks import check_weights


@dataclass(frozen=True)
class EmConfig:
    """Entropy minimisation.

    Attributes:
        weight: Of the entropy divided by ln(K + 1).
    """

    weight: float = DEFAULT_WEIGHT

    def __post_init__(self) -> None:
        check_weights(self, "entropy minimisation", "weight")


class EntropyMinimization(PartialCrossEntropy):
    """L = pCE + weight * entropy / ln C."""

    def __init__(
        self, setting: MethodSetting, config: EmConfig, dice_weight: float = 0.0, deep_supervision: bool = True
    ) -> None:
        super().__init__(setting, dice_weight, deep_supervision)
        self.config = config

    def regularization(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """See `PartialCrossEntropy`."""
        return {"entropy": self.config.weight * entropy_loss(outputs["out"], batch.inside)}
