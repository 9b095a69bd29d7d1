"""What every training in progress has: a network, its optimiser and averaged weights, its data, and its history."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.training.batches import PlannedStream
from CrossModalSegLib.training.ema import WeightAverage
from CrossModalSegLib.training.history import History
from CrossModalSegLib.training.rng import restore_rng_state, rng_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class NetworkRun:
    """One training in progress: everything that a checkpoint holds, and the one step that changes it.

    Attributes:
        config: The settings.
        step: Steps done.
        seconds: For how long; kept by the loop.
        network: The network in training, without wrappers.
        average: The moving average of its weights, or None.
        best_score, best_weights: Of the best validation so far, or None.
        validated_at: Step of the last validation.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        stream: PlannedStream,
        config: Any,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        ema_decay: float | None,
        gradient_clip: float | None,
        wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> None:
        """Put everything on the device.

        Args:
            fabric: Launched.
            network: Newly built, or with the weights to start from.
            stream: Of training batches.
            config: The settings; a dataclass.
            make_optimizer: Of the module that is trained, on its device.
            ema_decay: Of the averaged weights; None for none.
            gradient_clip: Largest norm of the gradient; None leaves it as it is.
            wrap: Around the network, a module whose forward pass is a whole step. It holds the network as "network",
                and may have weights of its own, which are trained, but neither averaged nor shipped.
        """
        self.fabric, self.stream, self.config = fabric, stream, config
        self.gradient_clip = gradient_clip
        self.history = History()
        self.step = 0
        self.seconds = 0.0
        self.best_score: float | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.validated_at = -1
        self.network = fabric.to_device(network)
        self.average = None if ema_decay is None else WeightAverage(self.network, ema_decay)
        self._module = fabric.to_device(wrap(self.network))
        self.model, self.optimizer = fabric.setup(self._module, make_optimizer(self._module))
        self.model.train()

    @property
    def evaluated_network(self) -> nn.Module:
        """The network to validate and to ship: the averaged one if there is one."""
        return self.network if self.average is None else self.average.network

    @property
    def follows_clock(self) -> bool:
        """Whether the end, and validations, depend on the time."""
        return False

    @property
    def is_done(self) -> bool:
        """Whether no step is left."""
        raise NotImplementedError

    @property
    def is_validation_due(self) -> bool:
        """Whether to validate before the next step, or at the end; asked when this was not yet done at this step."""
        raise NotImplementedError

    @property
    def extent(self) -> tuple[int, int]:
        """How much of how much is done, for progress."""
        raise NotImplementedError

    def current_learning_rate(self) -> float:
        """The rate of the coming step."""
        raise NotImplementedError

    def loss_terms(self, batch: Any) -> dict[str, Tensor]:
        """Forward pass and loss of a batch: scalars, "total" among them."""
        raise NotImplementedError

    def advance(self) -> None:
        """Do one step."""
        batch = self.next_batch()
        self._set_learning_rate()
        terms = self.update_weights(batch)
        self.after_update()
        if self.average is not None:
            self.average.update(self.network)
        self.history.add(terms)
        self.step += 1

    def next_batch(self) -> Any:
        """The batch of the coming step, on the device."""
        return self.stream.next().to(self.fabric.device)

    def after_update(self) -> None:
        """Called in a step, once the weights are updated."""

    def update_weights(self, batch: Any) -> dict[str, Tensor]:
        """Forward, loss, backward and optimiser step of a batch; returns the loss terms."""
        terms = self.loss_terms(batch)
        self.fabric.backward(terms["total"])
        if self.gradient_clip is not None:
            # A norm that is not finite shows in the loss at the next report; asking here would wait for the GPU.
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return terms

    def record(self, seconds: float) -> dict[str, float]:
        """Make a history entry, with the learning rate of the step that was done last.

        Raises:
            ModelError: A loss is NaN or infinite.
        """
        means = self.history.record(self.step, self.optimizer.param_groups[0]["lr"], seconds)
        self.check_finite(means)
        return means

    def check_finite(self, means: Mapping[str, float]) -> None:
        """ModelError if a loss term is NaN or infinite."""
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise self._divergence(f"the loss {bad[0]} is no longer a finite number")

    def check_worth_keeping(self) -> None:
        """ModelError if a loss or a weight is NaN or infinite: such a state must not replace a former checkpoint.

        A gradient may spoil the weights in a step whose own loss is still finite.
        """
        self.check_finite(self.history.collect())
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()):
            raise self._divergence("weights are no longer finite numbers")

    def _divergence(self, what: str) -> ModelError:
        return ModelError(
            f"The training diverged: {what} at step {self.step}. "
            "Lower the learning rate, clip gradients, or compute in fp32."
        )

    def keep_if_best(self, score: float | None) -> None:
        """Keep a copy of the weights of the best validation; a higher score is better."""
        if score is not None and (self.best_score is None or score > self.best_score):
            self.best_score = score
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
            "around": self._around(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "history": self.history.state_dict(),
            "best": None if self.best_weights is None else {"score": self.best_score, "weights": self.best_weights},
            "validated_at": self.validated_at,
        }

    def load_state_dict(self, state: Mapping[str, Any], local: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` and `local_state` were taken."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self._module.load_state_dict(state["around"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history.load_state_dict(state["history"])
        if state["best"] is not None:
            self.best_score, self.best_weights = state["best"]["score"], state["best"]["weights"]
        self.validated_at = state["validated_at"]
        self.stream.load_state_dict(local["stream"])
        restore_rng_state(local["rng"])

    def _around(self) -> dict[str, Tensor]:
        """Weights of the module around the network."""
        if self._module is self.network:
            return {}
        return {name: each for name, each in self._module.state_dict().items() if not name.startswith("network.")}

    def _set_learning_rate(self) -> None:
        rate = self.current_learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate_share", 1.0)
