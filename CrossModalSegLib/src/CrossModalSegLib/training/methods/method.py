"""What all training methods have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.training.batches import Batch

# Class probabilities (K + 1, k, j, i) float32 of a case, by the network as it is now.
PredictCase = Callable[[PreparedCase], np.ndarray]


@dataclass(frozen=True)
class MethodSetting:
    """What a method needs to know about the training.

    Attributes:
        num_classes: K + 1.
        total_steps: Steps of the whole training.
        steps_per_epoch: Steps in which as many patches are seen as there are cases.
    """

    num_classes: int
    total_steps: int
    steps_per_epoch: int = 1


class Method:
    """Turns the network's outputs for a batch into named loss terms, "total" among them.

    A method without a state of its own implements `loss` alone.

    Attributes:
        default_network: Name in `models.factory` of the network that the method was published with.
        required_outputs: Outputs that the network must give.
        setting: Of this training.
    """

    default_network: ClassVar[str] = "vnet"
    required_outputs: tuple[str, ...] = ("out",)

    def __init__(self, setting: MethodSetting) -> None:
        self.setting = setting
        self.network: nn.Module | None = None
        self.autocast: Callable[[], AbstractContextManager] = nullcontext

    def bind(self, network: nn.Module, autocast: Callable[[], AbstractContextManager]) -> None:
        """Get to know the network in training, on its device, and the context in which forward passes run."""
        self.network = network
        self.autocast = autocast

    def networks(self) -> dict[str, nn.Module]:
        """Networks of the method's own, such as a teacher."""
        return {}

    def loss(self, batch: Batch, outputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Loss terms of a batch.

        Args:
            batch: On the network's device.
            outputs: Logits (N, K + 1, k, j, i) by branch, float32; "similarity" is a scalar loss term.
            step: Steps done before this one.

        Returns:
            Scalars: "total", which is minimised, and its parts.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Called after the weights were updated in `step`."""

    def is_refresh_due(self, step: int) -> bool:  # noqa: ARG002
        """Whether `refresh` shall be called before `step`."""
        return False

    def refresh(self, step: int, cases: Sequence[PreparedCase], predict: PredictCase) -> dict[str, list[np.ndarray]]:  # noqa: ARG002
        """Label maps, one uint8 (k, j, i) a case, to be cut out with the patches from now on as `batch.extra`.

        Args:
            step: Steps done.
            cases: All that are learned from.
            predict: To be called once with each case, in their order.
        """
        return {}

    def labelling_network(self, network: nn.Module) -> nn.Module:
        """What makes the labels of a second stage, from the network that is evaluated."""
        return network

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold of the method, `networks` aside."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""


def with_total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms and, as "total", their sum."""
    return {"total": sum(terms.values()), **terms}
