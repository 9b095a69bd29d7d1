"""Partial cross-entropy on scribbles, and nothing else: the baseline of Tables I and II."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.methods.method import Method, MethodSetting, with_total
from CrossModalSegLib.training.methods.supervision import supervise


class PartialCrossEntropy(Method):
    """L = pCE (+ partial Dice). Methods that add a regulariser override `regularization`."""

    def __init__(self, setting: MethodSetting, dice_weight: float = 0.0, deep_supervision: bool = True) -> None:
        super().__init__(setting)
        self.dice_weight = dice_weight
        self.deep_supervision = deep_supervision

    def loss(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """See `Method`."""
        terms = supervise(outputs, batch.labels, self.dice_weight, self.deep_supervision)
        return with_total({**terms, **self.regularization(batch, outputs, step)})

    def regularization(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Weighted terms beside the supervision."""
        return {}
