"""The hybrid-supervised learning of CmFNet (Eqs. 3 to 9), with every switch of Table VII."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from CrossModalSegLib.losses.hybrid import HybridConfig, hybrid_loss
from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.methods.method import Method, MethodSetting
from CrossModalSegLib.training.methods.supervision import SIMILARITY


class HybridSupervision(Method):
    """L = L_ssl + L_imr + L_imc on the three branches of CmFNet; without CFE on its two, "out" (y_ct) and "mr".

    With L_imc switched off, any network will do: V-Net with L_ssl + L_imr is a single-modal model of Table IV.
    """

    default_network: ClassVar[str] = "cmfnet"

    def __init__(self, setting: MethodSetting, config: HybridConfig) -> None:
        super().__init__(setting)
        self.config = config
        self.required_outputs = ("out", "mr") if config.imc else ("out",)

    def loss(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """See `Method`; "ssl", "imr" and "imc" are weighted as they enter the total."""
        epoch = step / self.setting.steps_per_epoch
        terms = hybrid_loss(
            outputs, batch.images, batch.labels, self.config, spacing=batch.spacing, epoch=epoch, inside=batch.inside
        )
        if SIMILARITY in outputs:
            terms = {**terms, SIMILARITY: outputs[SIMILARITY], "total": terms["total"] + outputs[SIMILARITY]}
        return terms
