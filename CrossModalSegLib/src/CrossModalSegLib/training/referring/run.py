"""A referring training in progress, and its loop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from CrossModalSegLib.data.referring.pair_sampler import PairBatch
from CrossModalSegLib.losses.dense_guidance import DenseGuidance
from CrossModalSegLib.losses.referring import ReferringLoss
from CrossModalSegLib.models.crossmr import CrossMR
from CrossModalSegLib.training.batches import PlannedStream
from CrossModalSegLib.training.network_run import NetworkRun
from CrossModalSegLib.training.optimizer import build_optimizer
from CrossModalSegLib.training.referring.config import ReferringConfig
from CrossModalSegLib.training.referring.step import CrossMRStep, UNetStep
from CrossModalSegLib.training.referring.validation import validate_pairs
from CrossModalSegLib.training.schedule import learning_rate_at
from CrossModalSegLib.training.step_loop import StepLoop

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class ReferringRun(NetworkRun):
    """Network, optimiser, pairs and history of one referring training.

    Attributes:
        total_steps: Steps in all; None where the clock decides.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        stream: PlannedStream,
        config: ReferringConfig,
        num_classes: int,
        total_steps: int | None,
    ) -> None:
        """Put everything on the device.

        Args:
            fabric: Launched.
            network: CrossMR or the 2D U-Net, newly built, or with the weights to start from.
            stream: Of batches of pairs.
            config: The settings.
            num_classes: Background included.
            total_steps: Steps in all; None where the clock decides.
        """
        if config.encoder_rate == 0 and isinstance(network, CrossMR):
            network.encoder.requires_grad_(False)
        optimizer = partial(
            build_optimizer,
            name="adamw",
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            rate_shares={"network.encoder.": config.encoder_rate},
        )
        super().__init__(
            fabric,
            network,
            stream,
            config,
            optimizer,
            ema_decay=config.ema_decay,
            gradient_clip=config.gradient_clip,
            wrap=partial(make_step, config=config, num_classes=num_classes),
        )
        self.total_steps = total_steps

    @property
    def share_done(self) -> float:
        """How much of the training is done, 0 to 1, by steps or by the clock."""
        if self.total_steps is not None:
            return min(1.0, self.step / self.total_steps)
        return min(1.0, self.seconds / (60 * self.config.minutes))

    @property
    def follows_clock(self) -> bool:
        """Whether the end, and validations, depend on the time."""
        return self.total_steps is None

    @property
    def is_done(self) -> bool:
        """Whether no step is left."""
        return self.share_done >= 1

    @property
    def is_validation_due(self) -> bool:
        """Evenly over the training, and at the end; by the clock no more than once in two minutes."""
        count = self.config.validations
        if self.total_steps is None:
            count = max(1, min(count, int(self.config.minutes / 2)))
        done = int(self.share_done * count + 1e-9)
        return self.step > 0 and (self.is_done or done > len(self.history.validation))

    @property
    def extent(self) -> tuple[int, int]:
        """Steps, or seconds."""
        if self.total_steps is not None:
            return self.step, self.total_steps
        total = round(60 * self.config.minutes)
        return min(round(self.seconds), total), total

    def current_learning_rate(self) -> float:
        """The rate of the coming step."""
        c = self.config
        return learning_rate_at(c.learning_rate, self.share_done, c.schedule, self.step, c.warm_up_steps)

    def loss_terms(self, batch: PairBatch) -> dict[str, Tensor]:
        """A step's forward pass."""
        return self.model(*batch.tensors)


def make_step(network: nn.Module, config: ReferringConfig, num_classes: int | None = None) -> CrossMRStep | UNetStep:
    """The module whose forward pass is a step of the network.

    Args:
        network: CrossMR or the 2D U-Net.
        config: The settings.
        num_classes: Background included: with dense guidance, where the settings have it; None without.
    """
    if not isinstance(network, CrossMR):
        return UNetStep(network)
    loss = ReferringLoss(within_organ=config.within_organ, points=config.points, absent=config.absent_weight)
    guidance = None
    if config.dense_guidance and num_classes is not None:
        guidance = DenseGuidance(config.network.channels, num_classes)
    return CrossMRStep(network, loss, config.pairs.both_ways, guidance)


class ReferringLoop(StepLoop):
    """Runs a referring training to its end; the weights of the lowest validation loss are the best."""

    training: ReferringRun

    def __init__(self, run: ReferringRun, pairs: Sequence[PairBatch], names: Sequence[str], **options: Any) -> None:
        """Set the loop up.

        Args:
            run: The training.
            pairs: To validate on; may be none.
            names: Of the label values 1, 2, ….
            options: Of `StepLoop`.
        """
        super().__init__(run, checkpoint_minutes=run.config.checkpoint_minutes, **options)
        self.pairs, self.names = tuple(pairs), tuple(names)

    def validate(self) -> None:
        """Loss and Dice of the held-out pairs; every process does all of them, as they are few."""
        run = self.training
        if not self.pairs:
            return
        step = make_step(run.evaluated_network, run.config)
        result = validate_pairs(step, self.pairs, self.names, self.fabric, self._prediction_guard())
        with self._changing():
            run.history.validation.append({"step": run.step, **result})
            run.keep_if_best(-result["loss"])
            run.validated_at = run.step
        self._shown["DSC"] = result["dice"] or 0.0
