"""Training the prior that fits start from: a prompted, class-agnostic CmFNet, on endless synthetic samples.

Only the labelled volumes limit what it may be used for: a prior that ships is trained on volumes whose licence allows
it, and it is never judged on a case that it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from CrossModalSegLib.cohort import Case, Cohort, load_case
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.cache import case_key
from CrossModalSegLib.data.preprocess import Preprocessing, prepare_case
from CrossModalSegLib.errors import CohortError, InputError, LabelError
from CrossModalSegLib.fitting.fit_case import load_prior
from CrossModalSegLib.fitting.prompts import PROMPT_CHANNELS
from CrossModalSegLib.fitting.synthesis import LabelledVolume, SynthesisConfig, synthesise
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import save_model
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.losses.full_supervision import full_supervision
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig
from CrossModalSegLib.progress import CancelToken, Progress
from CrossModalSegLib.training.batches import PlannedStream, batch_workers
from CrossModalSegLib.training.devices import (
    Accelerator,
    build_fabric,
    choose_accelerator,
    choose_precision,
    progress_of_first,
)
from CrossModalSegLib.training.ema import WeightAverage
from CrossModalSegLib.training.export import model_name
from CrossModalSegLib.training.interrupt import InterruptGuard
from CrossModalSegLib.training.methods.method import with_total
from CrossModalSegLib.training.network_run import NetworkRun
from CrossModalSegLib.training.rng import isolated_rng, seed_everything
from CrossModalSegLib.training.step_loop import StepLoop
from CrossModalSegLib.training.working_folder import (
    check_output,
    find_checkpoint,
    no_remains,
    remove_working_folder,
    sole_training,
    working_folder,
)
from CrossModalSegLib.versions import library_versions

if TYPE_CHECKING:
    from lightning.fabric import Fabric

BRANCH_WEIGHTS = {"out": 1.0, "ct": 0.4, "mr": 0.4}
MAX_GRADIENT_NORM = 5.0
WEIGHT_DECAY = 1e-4
WARM_UP_STEPS = 100


@dataclass(frozen=True)
class PriorConfig:
    """How a prior is trained.

    Attributes:
        steps: Optimiser steps; not used when `minutes` is given.
        minutes: Time to train; the learning rate then follows the clock instead of the steps.
        batch_size: Samples a step.
        learning_rate: Of AdamW; rises over the first 100 steps and falls as a cosine to 2 % of it.
        base_channels: Width of the network.
        ema_decay: Of the averaged weights, which are the result.
        checkpoint_minutes: Between two checkpoints.
        seed: Of weights and samples.
        synthesis: How samples vary.
    """

    steps: int = 5000
    minutes: float | None = None
    batch_size: int = 2
    learning_rate: float = 2e-3
    base_channels: int = 8
    ema_decay: float = 0.995
    checkpoint_minutes: float = 10.0
    seed: int = 0
    synthesis: SynthesisConfig = SynthesisConfig()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise InputError(
                "Steps and batch size of a prior's training are at least 1, the learning rate more than 0 and finite."
            )
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"A prior is trained for more than 0 minutes, got {self.minutes:g}.")

    def rate(self, step: int, seconds: float = 0.0) -> float:
        """The learning rate of a step, counted from 0, after so many seconds of training."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.share_done(step, seconds)))
        return self.learning_rate * min(1.0, (step + 1) / WARM_UP_STEPS) * (0.02 + 0.98 * cosine)

    def share_done(self, step: int, seconds: float) -> float:
        """How much of the training is done, 0 to 1, after so many steps and seconds."""
        return min(1.0, step / self.steps if self.minutes is None else seconds / (60 * self.minutes))


class SampleSource:
    """Names the samples of a training: each is drawn by a random generator of its own, so that it is the same one
    however many processes make the samples, and in a training that was resumed."""

    def __init__(self, *seed: int) -> None:
        self._seed, self._count = seed, 0

    def plan(self) -> tuple[int, ...]:
        """The seed of the next sample."""
        self._count += 1
        return (*self._seed, self._count)

    def state_dict(self) -> dict[str, Any]:
        """How many were named."""
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there."""
        self._count = state["count"]


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """What a step learns from.

    Attributes:
        inputs: (N, 2 + PROMPT_CHANNELS, k, j, i) float32.
        target: (N, k, j, i) int64, 0 or 1.
    """

    inputs: Tensor
    target: Tensor

    def to(self, device: torch.device) -> SampleBatch:
        """The batch on a device."""
        return SampleBatch(*(tensor.to(device, non_blocking=True) for tensor in (self.inputs, self.target)))

    def pin_memory(self) -> SampleBatch:
        """The batch in page-locked memory, from which copies to a GPU overlap with computing."""
        return SampleBatch(self.inputs.pin_memory(), self.target.pin_memory())


class SampleMaker:
    """Makes the samples that a `SampleSource` named."""

    def __init__(self, volumes: list[LabelledVolume], config: SynthesisConfig) -> None:
        self._volumes, self._config = volumes, config

    def __call__(self, seeds: Sequence[tuple[int, ...]]) -> SampleBatch:
        """The batch of these samples."""
        samples = [synthesise(self._volumes, self._config, np.random.default_rng(seed)) for seed in seeds]
        inputs = torch.from_numpy(np.stack([sample.inputs for sample in samples]))
        return SampleBatch(inputs, torch.from_numpy(np.stack([sample.target for sample in samples]).astype(np.int64)))


def train_prior(
    cohorts: Sequence[Cohort],
    out: str | Path,
    config: PriorConfig | None = None,
    *,
    init: str | Path | None = None,
    resume: bool = False,
    licence: str = "",
    workers: int | None = None,
    accelerator: Accelerator = "auto",
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Train a prior on the masks of cohorts.

    As in `training.trainer`, everything that is needed to continue is in `<out>.training` while a training runs, and
    the model folder appears at the end, at once.

    Args:
        cohorts: Cases with masks; each image of a case is a training volume of its own.
        out: The model folder to make.
        config: Settings.
        init: A prior to start from.
        resume: Continue a training that was stopped; without one, begin.
        licence: Of the weights, for the model card.
        workers: Processes that make the samples; 0 takes a thread instead, None what suits the device.
        accelerator: "cpu", "cuda", "mps", or "auto" for the best there is.
        progress: Called after each step, with the loss as a value.
        cancel: Looked at between steps.

    Returns:
        `out`.

    Raises:
        OutputError: The folder exists, or a training that was stopped or still runs is in its place, or it cannot be
            written.
        CohortError: No case has a mask.
        LabelError: A mask is empty.
        InputError: Settings or data differ from those of the training to resume.
        ModelError: `init` is not usable, the training diverged, or the checkpoint is damaged.
        Cancelled, KeyboardInterrupt: On request; a checkpoint was written.
    """
    out, config = Path(out), config or PriorConfig()
    working = working_folder(out)
    check_output(out, working, resume)
    precision = choose_precision("bf16", choose_accelerator(accelerator))
    with sole_training(working), isolated_rng(), InterruptGuard(cancel) as guard, no_remains(working):
        fabric = build_fabric(accelerator=accelerator, precision=precision)
        progress = progress_of_first(fabric, progress)
        description = _describe(cohorts, config, init, fabric)
        checkpoint = find_checkpoint(working, description, fabric, resume)
        seed_everything(config.seed)
        # Before the cases, whose loading may take long: a model that is missing or does not fit shows here.
        network = load_prior(init) if init else CmFNet(prior_network(config.base_channels))
        volumes, content = _load(cohorts, guard)
        with _open_run(volumes, network, config, workers, fabric) as run:
            loop = StepLoop(
                run,
                checkpoints=working / "checkpoints",
                checkpoint_minutes=config.checkpoint_minutes,
                description={**description, "content": content},
                progress=progress,
                guard=guard,
            )
            loop.run(checkpoint)
        if fabric.global_rank == 0:
            save_model(out, run.average.network, _card(out, cohorts, run, licence, init), weights="bfloat16")
            remove_working_folder(working)
        fabric.barrier()
    return out


def prior_network(base_channels: int) -> CmFNetConfig:
    """The configuration of a prior's network."""
    return CmFNetConfig(prompt_channels=PROMPT_CHANNELS, base_channels=base_channels, dropout=0.0)


def _load(cohorts: Sequence[Cohort], cancel: CancelToken) -> tuple[list[LabelledVolume], dict[str, str]]:
    """Every image of every case with a mask, in [0, 1] on its own grid; hashes of what the cases hold, by their names.

    Raises:
        CohortError: No case of a cohort has a mask.
        LabelError: A mask is empty.
    """
    volumes: list[LabelledVolume] = []
    content: dict[str, str] = {}
    for cohort in cohorts:
        cases = _masked(cohort)
        if not cases:
            raise CohortError(
                "A prior is trained on masks, but no case of the cohort has one: add masks to the cohort."
            )
        for case in cases:
            cancel.raise_if_cancelled()
            loaded = load_case(case, cohort)
            # Cases of one name in several cohorts are told as one.
            key = case_key(loaded.images, None, loaded.mask, Preprocessing())
            content[case.name] = content.get(case.name, "") + key
            prepared = prepare_case(loaded, Preprocessing())
            if not prepared.mask.any():  # where no structure is, none could be drawn, and the search would never end
                raise LabelError(
                    f"The mask of the case {case.name} is empty: a prior learns nothing there. Leave it out."
                )
            volumes += [LabelledVolume(image, prepared.mask, prepared.spacing) for image in prepared.images]
    return volumes, content


def _masked(cohort: Cohort) -> list[Case]:
    return [case for case in cohort.cases if case.mask is not None]


def _names(cohorts: Sequence[Cohort]) -> list[str]:
    return [case.name for cohort in cohorts for case in _masked(cohort)]


def _describe(
    cohorts: Sequence[Cohort], config: PriorConfig, init: str | Path | None, fabric: Fabric
) -> dict[str, Any]:
    """What has to be the same for a training to be resumed."""
    return {
        "config": to_dict(config),
        "cases": _names(cohorts),
        "start": None if init is None else Path(init).name,
        "processes_count": fabric.world_size,
    }


@contextmanager
def _open_run(
    volumes: list[LabelledVolume], network: CmFNet, config: PriorConfig, workers: int | None, fabric: Fabric
) -> Iterator[PriorRun]:
    """A new training, ready for its first step."""
    stream = PlannedStream(
        SampleSource(config.seed, fabric.global_rank),
        SampleMaker(volumes, config.synthesis),
        config.batch_size,
        workers=batch_workers(workers, fabric.device),
        pin_memory=fabric.device.type == "cuda",
    )
    try:
        yield PriorRun(fabric, network, stream, config)
    finally:
        stream.close()


class PriorRun(NetworkRun):
    """Network, optimiser, averaged weights, samples and history of one training."""

    config: PriorConfig
    average: WeightAverage

    def __init__(self, fabric: Fabric, network: CmFNet, stream: PlannedStream, config: PriorConfig) -> None:
        """Put everything on the device."""
        super().__init__(
            fabric,
            network,
            stream,
            config,
            lambda module: torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=WEIGHT_DECAY),
            ema_decay=config.ema_decay,
            gradient_clip=MAX_GRADIENT_NORM,
        )

    @property
    def follows_clock(self) -> bool:
        """Whether the end depends on the time."""
        return self.config.minutes is not None

    @property
    def is_done(self) -> bool:
        """Whether the steps or the minutes are used up."""
        return self.config.share_done(self.step, self.seconds) >= 1

    @property
    def is_validation_due(self) -> bool:
        """Never: all cases are learned from."""
        return False

    @property
    def extent(self) -> tuple[int, int]:
        """Steps, or seconds."""
        if self.config.minutes is None:
            return self.step, self.config.steps
        total = round(60 * self.config.minutes)
        return min(round(self.seconds), total), total

    def current_learning_rate(self) -> float:
        """The rate of the coming step."""
        return self.config.rate(self.step, self.seconds)

    def loss_terms(self, batch: SampleBatch) -> dict[str, Tensor]:
        """A step's forward pass, and the loss of each branch."""
        logits = self.model(batch.inputs)
        return with_total(
            {
                name: weight * full_supervision(logits[name], batch.target, "dice_ce")
                for name, weight in BRANCH_WEIGHTS.items()
            }
        )


def _card(out: Path, cohorts: Sequence[Cohort], run: PriorRun, licence: str, init: str | Path | None) -> ModelCard:
    return ModelCard(
        name=model_name(out),
        architecture="cmfnet",
        network=to_dict(run.network.config),
        modalities=("ct", "mr"),
        labels=LabelTable.from_names(["structure"]),
        provenance={
            "what": "prompted, class-agnostic CmFNet trained on synthetic samples of labelled volumes",
            "cases": _names(cohorts),
            "settings": to_dict(run.config),
            "steps": run.step,
            "minutes": round(run.seconds / 60, 1),
            "init": None if init is None else Path(init).name,
        },
        licence=licence,
        seed=run.config.seed,
        versions=library_versions(),
    )
