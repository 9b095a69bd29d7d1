"""Mumford-Shah regularisation (Kim and Ye, IEEE TIP 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from CrossModalSegLib.losses.mumford_shah import DEFAULT_WEIGHT_MEAN, mumford_shah
from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.methods.method import MethodSetting
from CrossModalSegLib.training.methods.pce import PartialCrossEntropy
from CrossModalSegLib.training.number_checks import check_weights


@dataclass(frozen=True)
class MsConfig:
    """Mumford-Shah.

    Attributes:
        weight: Of the energy; of a sum, 1e-6 in the public code.
        contour_weight: Of the contours' length within the energy.
        reduction: "mean", the energy of a voxel, or "sum", that of all voxels, as in the public code.
    """

    weight: float = DEFAULT_WEIGHT_MEAN
    contour_weight: float = 1.0
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_weights(self, "Mumford-Shah", "weight", "contour_weight")


class MumfordShah(PartialCrossEntropy):
    """L = pCE + weight * Mumford-Shah energy of the probabilities."""

    def __init__(
        self, setting: MethodSetting, config: MsConfig, dice_weight: float = 0.0, deep_supervision: bool = True
    ) -> None:
        super().__init__(setting, dice_weight, deep_supervision)
        self.config = config

    def regularization(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """See `PartialCrossEntropy`."""
        y, config = outputs["out"].softmax(1), self.config
        energy = mumford_shah(
            y, batch.images, config.contour_weight, config.reduction, spacing=batch.spacing, inside=batch.inside
        )
        return {"ms": self.config.weight * energy}
