"""Scribble2Label: pseudo-labels from predictions averaged over the training (Lee and Jeong, MICCAI 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.losses.partial_cross_entropy import partial_cross_entropy
from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.methods.method import MethodSetting, PredictCase
from CrossModalSegLib.training.methods.pce import PartialCrossEntropy
from CrossModalSegLib.training.number_checks import check_weights

PSEUDO_LABELS = "averaged predictions"


@dataclass(frozen=True)
class S2LConfig:
    """Averaged predictions as labels.

    Attributes:
        alpha: Weight of the newest prediction in the average.
        confidence: Voxels whose averaged probability is above it become pseudo-labels.
        weight: Of the cross-entropy with the pseudo-labels.
        warm_up_share: Of all steps, before the first average.
        period_share: Of all steps, between two averages.
    """

    alpha: float = 0.2
    confidence: float = 0.8
    weight: float = 0.5
    warm_up_share: float = 0.2
    period_share: float = 0.05

    def __post_init__(self) -> None:
        for name in ("alpha", "confidence", "warm_up_share", "period_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InputError(f"The {name} of Scribble2Label lies above 0, up to 1; got {getattr(self, name)}.")
        check_weights(self, "Scribble2Label", "weight")


class Scribble2Label(PartialCrossEntropy):
    """L = pCE + weight * CE with the confident averaged predictions of unlabelled voxels.

    The average of each case covers its whole volume and is made by the shipped predictor, so that it does not
    depend on which patches were drawn. It is kept in half precision.
    """

    def __init__(
        self, setting: MethodSetting, config: S2LConfig, dice_weight: float = 0.0, deep_supervision: bool = True
    ) -> None:
        super().__init__(setting, dice_weight, deep_supervision)
        self.config = config
        self.averages: list[np.ndarray] = []
        self.warm_up = round(config.warm_up_share * setting.total_steps)
        self.period = max(1, round(config.period_share * setting.total_steps))

    def regularization(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """See `PartialCrossEntropy`."""
        if PSEUDO_LABELS not in batch.extra:
            return {"pseudo": outputs["out"].new_zeros(())}
        pseudo = torch.where(batch.labels == UNLABELLED, batch.extra[PSEUDO_LABELS], UNLABELLED)
        return {"pseudo": self.config.weight * partial_cross_entropy(outputs["out"], pseudo)}

    def is_refresh_due(self, step: int) -> bool:
        """Every period, once warmed up."""
        return step >= self.warm_up and (step - self.warm_up) % self.period == 0

    def refresh(self, step: int, cases: Sequence[PreparedCase], predict: PredictCase) -> dict[str, list[np.ndarray]]:  # noqa: ARG002
        """Average in the present predictions and choose the confident voxels anew."""
        maps = []
        for number, case in enumerate(cases):
            new = predict(case)
            if number == len(self.averages):
                self.averages.append(new.astype(np.float16))
            else:
                self.averages[number] = _blend(self.averages[number], new, self.config.alpha)
            maps.append(self._confident(self.averages[number]))
        return {PSEUDO_LABELS: maps}

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return {"averages": [torch.from_numpy(average) for average in self.averages]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method`."""
        self.averages = [average.numpy() for average in state["averages"]]

    def _confident(self, average: np.ndarray) -> np.ndarray:
        labels = average.argmax(0).astype(np.uint8)
        return np.where(average.max(0) > self.config.confidence, labels, np.uint8(UNLABELLED))


def _blend(old: np.ndarray, new: np.ndarray, alpha: float) -> np.ndarray:
    return ((1.0 - alpha) * old.astype(np.float32) + alpha * new).astype(np.float16)
