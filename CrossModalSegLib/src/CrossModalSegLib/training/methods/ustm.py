"""USTM: an uncertainty-aware, transformation-consistent mean teacher (Liu et al., Pattern Recognition 2022).

The public re-implementation compares the uncertainty with (0.75 + 0.25 ramp) * ln 2 whatever the number of classes C;
here it is ln C. Rotations keep the shape of the patch: by quarter turns in-plane where j and i are equally many, by
half turns otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.ema import WeightAverage
from CrossModalSegLib.training.methods.method import MethodSetting
from CrossModalSegLib.training.methods.pce import PartialCrossEntropy
from CrossModalSegLib.training.number_checks import check_weights
from CrossModalSegLib.training.schedule import sigmoid_ramp


@dataclass(frozen=True)
class UstmConfig:
    """The mean teacher.

    Attributes:
        ema_decay: Of the teacher's weights.
        passes: T, noisy passes of the teacher from which the uncertainty is computed.
        noise: Standard deviation of the noise on the teacher's images, for images in [0, 1].
        noise_limit: At which the noise is clipped.
        consistency: Weight of the consistency, reached at the end of the ramp. Of two public implementations one
            has 1, the other 0.1.
        ramp_share: Of all steps, over which the consistency's weight rises.
    """

    ema_decay: float = 0.99
    passes: int = 8
    noise: float = 0.1
    noise_limit: float = 0.2
    consistency: float = 1.0
    ramp_share: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.ema_decay < 1.0:
            raise InputError(f"The teacher's ema_decay lies within 0 and 1, 1 excluded; got {self.ema_decay}.")
        if self.passes < 1:
            raise InputError(f"The teacher needs at least one pass; got {self.passes}.")
        check_weights(self, "the mean teacher", "noise", "noise_limit", "consistency", "ramp_share")


class MeanTeacher(PartialCrossEntropy):
    """L = pCE + consistency with a teacher's prediction of the rotated image, where the teacher is certain."""

    def __init__(
        self, setting: MethodSetting, config: UstmConfig, dice_weight: float = 0.0, deep_supervision: bool = True
    ) -> None:
        super().__init__(setting, dice_weight, deep_supervision)
        self.config = config
        self.teacher: WeightAverage | None = None

    def bind(self, network: nn.Module, autocast: Callable[[], AbstractContextManager]) -> None:
        """See `Method`."""
        super().bind(network, autocast)
        self.teacher = WeightAverage(network, self.config.ema_decay)

    def networks(self) -> dict[str, nn.Module]:
        """The teacher."""
        return {"teacher": self.teacher.network}

    def regularization(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """See `PartialCrossEntropy`."""
        config = self.config
        turns = _draw_turns(batch.images.shape)
        student = torch.rot90(outputs["out"].softmax(1), turns, (3, 4))
        with torch.no_grad(), self.autocast():
            target = self._teach(torch.rot90(self._noisy(batch.images), turns, (3, 4)))
        is_certain = torch.rot90(self._is_certain(batch.images, step) & batch.inside, turns, (2, 3))
        # Half the sum: the mean of two classes, and no less where there are more, most of which are 0 in a voxel.
        distance = 0.5 * ((student - target) ** 2).sum(1)
        weight = config.consistency * sigmoid_ramp(step, round(config.ramp_share * self.setting.total_steps))
        return {"consistency": weight * (distance * is_certain).sum() / is_certain.sum().clamp(min=1)}

    def after_step(self, step: int) -> None:  # noqa: ARG002
        """The teacher follows the student."""
        self.teacher.update(self.network)

    def state_dict(self) -> dict[str, object]:
        """Number of updates; the teacher's weights are among `networks`."""
        return {"updates": self.teacher.updates}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """See `Method`."""
        self.teacher.updates = state["updates"]

    def threshold(self, step: int) -> float:
        """Largest entropy of a voxel that counts as certain: from 0.75 ln C up to ln C."""
        ramp = sigmoid_ramp(step, self.setting.total_steps)
        return (0.75 + 0.25 * ramp) * math.log(self.setting.num_classes)

    def _is_certain(self, images: Tensor, step: int) -> Tensor:
        """Where the mean of T noisy predictions, with dropout, has a low entropy; (N, k, j, i) bool."""
        with torch.no_grad(), self.autocast(), _dropout_on(self.teacher.network):
            mean = sum(self._teach(self._noisy(images)) for _ in range(self.config.passes)) / self.config.passes
        entropy = -(mean * mean.clamp_min(1e-6).log()).sum(1)
        return entropy < self.threshold(step)

    def _teach(self, images: Tensor) -> Tensor:
        return self.teacher.network.segment(images).float().softmax(1)

    def _noisy(self, images: Tensor) -> Tensor:
        limit = self.config.noise_limit
        return images + (torch.randn_like(images) * self.config.noise).clamp(-limit, limit)


def _draw_turns(shape: torch.Size) -> int:
    """Quarter turns within (j, i), 0 to 3, even where turning would change the shape."""
    turns = int(torch.randint(4, (1,)))
    return turns if shape[-1] == shape[-2] else 2 * (turns % 2)


@contextmanager
def _dropout_on(network: nn.Module) -> Iterator[None]:
    """Dropout as in training, everything else as in evaluation."""
    dropouts = [module for module in network.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    for module in dropouts:
        module.train()
    try:
        yield
    finally:
        for module in dropouts:
            module.eval()
