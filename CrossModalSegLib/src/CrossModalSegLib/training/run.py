"""A training in progress: everything that a checkpoint holds, and the one step that changes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.training.batches import Batch, BatchStream
from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.training.ema import WeightAverage
from CrossModalSegLib.training.history import History
from CrossModalSegLib.training.methods.method import Method
from CrossModalSegLib.training.optimizer import build_optimizer
from CrossModalSegLib.training.pseudo_labels import STAGE_TWO, fill_unlabelled
from CrossModalSegLib.training.rng import restore_rng_state, rng_state
from CrossModalSegLib.training.schedule import learning_rate

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class TrainingRun:
    """Network, optimiser, method, data and history of one training.

    Attributes:
        step: Steps done.
        total_steps: Steps in all; the second stage is part of them.
        first_stage_steps: Steps before the second stage.
        network: The network in training, without wrappers.
        average: The moving average of its weights, or None.
        best_dice, best_weights: Of the best validation so far, or None.
        validated_at, refreshed_at: Step of the last validation and of the last refresh of label maps.
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
        self.fabric, self.config = fabric, config
        self.method, self.stream = method, stream
        self.history = History()
        self.step = 0
        self.total_steps = total_steps
        stage = config.second_stage
        self.first_stage_steps = total_steps if stage is None else total_steps - round(stage.share * total_steps)
        self.best_dice: float | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.validated_at = self.refreshed_at = -1
        self.network = fabric.to_device(network)
        self.average = None if config.ema_decay is None else WeightAverage(self.network, config.ema_decay)
        optimizer = build_optimizer(
            self.network, config.optimizer, config.learning_rate, config.weight_decay, config.momentum
        )
        self.model, self.optimizer = fabric.setup(self.network, optimizer)
        method.bind(self.network, fabric.autocast)
        self.model.train()

    @property
    def is_second_stage(self) -> bool:
        """Whether the network learns from its own confident labels as well."""
        return self.step >= self.first_stage_steps

    @property
    def evaluated_network(self) -> nn.Module:
        """The network to validate and to ship: the averaged one if there is one."""
        return self.network if self.average is None else self.average.network

    def advance(self) -> None:
        """Do one step."""
        batch = self.stream.next().to(self.fabric.device)
        if self.is_second_stage:
            batch = fill_unlabelled(batch, STAGE_TWO)
        self._set_learning_rate()
        terms = self.update_weights(batch)
        self.method.after_step(self.step)
        if self.average is not None:
            self.average.update(self.network)
        self.history.add(terms)
        self.step += 1

    def update_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, loss, backward and optimiser step of a batch; returns the loss terms."""
        outputs = self.model(batch.images)
        terms = self.method.loss(batch, outputs, self.step)
        self.fabric.backward(terms["total"])
        if self.config.gradient_clip is not None:
            # A norm that is not finite shows in the loss at the next report; asking here would wait for the GPU.
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.config.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return terms

    def current_learning_rate(self) -> float:
        """The rate of the coming step; the second stage goes through the schedule again."""
        config, begin, length = self.config, 0, self.first_stage_steps
        if self.is_second_stage:
            begin, length = self.first_stage_steps, self.total_steps - self.first_stage_steps
        return learning_rate(
            config.learning_rate, self.step - begin, length, config.schedule, config.warm_up_steps if begin == 0 else 0
        )

    def record(self, seconds: float) -> dict[str, float]:
        """Make a history entry, with the learning rate of the step that was done last.

        Raises:
            ModelError: A loss is NaN or infinite.
        """
        means = self.history.record(self.step, self.optimizer.param_groups[0]["lr"], seconds)
        self.check_finite(means)
        return means

    def check_finite(self, means: Mapping[str, float]) -> None:
        """ModelError if a loss term is NaN or infinite: such weights must not reach a checkpoint."""
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise ModelError(
                f"The training diverged: the loss {bad[0]} is no longer a finite number at step {self.step}. "
                "Lower the learning rate, clip gradients, or compute in fp32."
            )

    def keep_if_best(self, dice: float | None) -> None:
        """Keep a copy of the weights of the best validation."""
        if dice is not None and (self.best_dice is None or dice > self.best_dice):
            self.best_dice = dice
            weights = self.evaluated_network.state_dict()
            self.best_weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}

    def local_state(self) -> dict[str, Any]:
        """What differs between the processes of one training: random generators, position in the data."""
        return {"rng": rng_state(), "stream": self.stream.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        """Everything else, equal in all processes."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "method": self.method.state_dict(),
            "method_networks": {name: each.state_dict() for name, each in self.method.networks().items()},
            "label_maps": {
                name: [torch.from_numpy(array) for array in maps] for name, maps in self.stream.sampler.extra.items()
            },
            "history": self.history.state_dict(),
            "best": None if self.best_weights is None else {"dice": self.best_dice, "weights": self.best_weights},
            "validated_at": self.validated_at,
            "refreshed_at": self.refreshed_at,
        }

    def load_state_dict(self, state: Mapping[str, Any], local: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` and `local_state` were taken."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, network in self.method.networks().items():
            network.load_state_dict(state["method_networks"][name])
        self.method.load_state_dict(state["method"])
        for name, maps in state["label_maps"].items():
            self.set_label_maps({name: [tensor.numpy() for tensor in maps]})
        self.history.load_state_dict(state["history"])
        if state["best"] is not None:
            self.best_dice, self.best_weights = state["best"]["dice"], state["best"]["weights"]
        self.validated_at, self.refreshed_at = state["validated_at"], state["refreshed_at"]
        self.stream.load_state_dict(local["stream"])
        restore_rng_state(local["rng"])

    def set_label_maps(self, maps: Mapping[str, list[np.ndarray]]) -> None:
        """Cut these label maps out with the patches from now on."""
        for name, arrays in maps.items():
            self.stream.set_extra(name, arrays)

    def _set_learning_rate(self) -> None:
        rate = self.current_learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
