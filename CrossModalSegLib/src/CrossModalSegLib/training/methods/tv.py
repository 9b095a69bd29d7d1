"""Total-variation regularisation (Javanmardi et al., 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from CrossModalSegLib.losses.total_variation import DEFAULT_WEIGHT, total_variation
from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.methods.method import MethodSetting
from CrossModalSegLib.training.methods.pce import PartialCrossEntropy
from CrossModalSegLib.training.number_checks import check_weights


@dataclass(frozen=True)
class TvConfig:
    """Total variation.

    Attributes:
        weight: Of the term.
        form: "contour", the soft inner contour, or "difference", absolute differences of neighbours.
    """

    weight: float = DEFAULT_WEIGHT
    form: Literal["contour", "difference"] = "contour"

    def __post_init__(self) -> None:
        check_weights(self, "total variation", "weight")


class TotalVariation(PartialCrossEntropy):
    """L = pCE + weight * TV of the foreground probabilities."""

    def __init__(
        self, setting: MethodSetting, config: TvConfig, dice_weight: float = 0.0, deep_supervision: bool = True
    ) -> None:
        super().__init__(setting, dice_weight, deep_supervision)
        self.config = config

    def regularization(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """See `PartialCrossEntropy`."""
        y = outputs["out"].softmax(1)
        length = total_variation(y, self.config.form, spacing=batch.spacing, inside=batch.inside)
        return {"tv": self.config.weight * length}
