"""The training of a 3D network in progress: a method, its label maps, and a second stage."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from CrossModalSegLib.training.batches import Batch, BatchStream
from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.training.methods.method import Method
from CrossModalSegLib.training.network_run import NetworkRun
from CrossModalSegLib.training.optimizer import build_optimizer
from CrossModalSegLib.training.pseudo_labels import STAGE_TWO, fill_unlabelled
from CrossModalSegLib.training.schedule import learning_rate

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class TrainingRun(NetworkRun):
    """Network, optimiser, method, data and history of one training.

    Attributes:
        total_steps: Steps in all; the second stage is part of them.
        first_stage_steps: Steps before the second stage.
        refreshed_at: Step of the last refresh of label maps.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        method: Method,
        stream: BatchStream,
        config: TrainingConfig,
        total_steps: int,
    ) -> None:
        """Put everything on the device.

        Args:
            fabric: Launched.
            network: Newly built, or with the weights to start from.
            method: Not yet bound.
            stream: Of training batches.
            config: The settings.
            total_steps: Steps in all.
        """
        optimizer = partial(
            build_optimizer,
            name=config.optimizer,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )
        super().__init__(
            fabric, network, stream, config, optimizer, ema_decay=config.ema_decay, gradient_clip=config.gradient_clip
        )
        self.method = method
        self.total_steps = total_steps
        self.validate_every = config.validate_every or max(1, total_steps // 20)
        stage = config.second_stage
        self.first_stage_steps = total_steps if stage is None else total_steps - round(stage.share * total_steps)
        self.refreshed_at = -1
        method.bind(self.network, fabric.autocast)

    @property
    def is_second_stage(self) -> bool:
        """Whether the network learns from its own confident labels as well."""
        return self.step >= self.first_stage_steps

    @property
    def is_done(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.total_steps

    @property
    def is_validation_due(self) -> bool:
        """At each multiple of `validate_every`, and at the end."""
        return self.step > 0 and (self.is_done or self.step % self.validate_every == 0)

    @property
    def extent(self) -> tuple[int, int]:
        """Steps done, and in all."""
        return self.step, self.total_steps

    def next_batch(self) -> Batch:
        """The batch of the coming step, in the second stage with the network's own labels."""
        batch = super().next_batch()
        return fill_unlabelled(batch, STAGE_TWO) if self.is_second_stage else batch

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Forward pass and the method's loss."""
        return self.method.loss(batch, self.model(batch.images), self.step)

    def after_update(self) -> None:
        """Tell the method."""
        self.method.after_step(self.step)

    def current_learning_rate(self) -> float:
        """The rate of the coming step; the second stage goes through the schedule again."""
        config, begin, length = self.config, 0, self.first_stage_steps
        if self.is_second_stage:
            begin, length = self.first_stage_steps, self.total_steps - self.first_stage_steps
        return learning_rate(
            config.learning_rate, self.step - begin, length, config.schedule, config.warm_up_steps if begin == 0 else 0
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that is equal in all processes."""
        return {
            **super().state_dict(),
            "method": self.method.state_dict(),
            "method_networks": {name: each.state_dict() for name, each in self.method.networks().items()},
            "label_maps": {
                name: [torch.from_numpy(array) for array in maps] for name, maps in self.stream.sampler.extra.items()
            },
            "refreshed_at": self.refreshed_at,
        }

    def load_state_dict(self, state: Mapping[str, Any], local: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` and `local_state` were taken."""
        for name, network in self.method.networks().items():
            network.load_state_dict(state["method_networks"][name])
        self.method.load_state_dict(state["method"])
        for name, maps in state["label_maps"].items():
            self.set_label_maps({name: [tensor.numpy() for tensor in maps]})
        self.refreshed_at = state["refreshed_at"]
        super().load_state_dict(state, local)

    def set_label_maps(self, maps: Mapping[str, list[np.ndarray]]) -> None:
        """Cut these label maps out with the patches from now on."""
        for name, arrays in maps.items():
            self.stream.set_extra(name, arrays)
