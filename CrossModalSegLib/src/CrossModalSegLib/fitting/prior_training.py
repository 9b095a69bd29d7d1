"""Training the prior that fits start from: a prompted, class-agnostic CmFNet, on endless synthetic samples.

Only the labelled volumes limit what it may be used for: a prior that ships is trained on volumes whose licence allows
it, and it is never judged on a case that it was trained on.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from CrossModalSegLib.cohort import Cohort, load_case
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.preprocess import Preprocessing, prepare_case
from CrossModalSegLib.errors import CohortError, InputError
from CrossModalSegLib.fitting.fit_case import load_prior
from CrossModalSegLib.fitting.prompts import PROMPT_CHANNELS
from CrossModalSegLib.fitting.synthesis import LabelledVolume, SynthesisConfig, synthesise
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import save_model
from CrossModalSegLib.inference.predictor import mixed_precision
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.losses.full_supervision import full_supervision
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig
from CrossModalSegLib.progress import CancelToken, Progress, SilentProgress
from CrossModalSegLib.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from CrossModalSegLib.training.ema import WeightAverage
from CrossModalSegLib.versions import library_versions

BRANCH_WEIGHTS = {"out": 1.0, "ct": 0.4, "mr": 0.4}
MAX_GRADIENT_NORM = 5.0
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
        if self.steps < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise InputError(
                "Steps and batch size of a prior's training are at least 1, the learning rate more than 0."
            )

    def rate(self, step: int, seconds: float = 0.0) -> float:
        """The learning rate of a step, counted from 0, after so many seconds of training."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.share_done(step, seconds)))
        return self.learning_rate * min(1.0, (step + 1) / WARM_UP_STEPS) * (0.02 + 0.98 * cosine)

    def share_done(self, step: int, seconds: float) -> float:
        """How much of the training is done, 0 to 1, after so many steps and seconds."""
        return min(1.0, step / self.steps if self.minutes is None else seconds / (60 * self.minutes))


class SampleStream(IterableDataset):
    """Samples (inputs (2 + PROMPT_CHANNELS, k, j, i) float32, target (k, j, i) int64) without end."""

    def __init__(self, volumes: list[LabelledVolume], config: SynthesisConfig, seed: tuple[int, ...]) -> None:
        self._volumes, self._config, self._seed = volumes, config, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng((*self._seed, 0 if worker is None else worker.id))
        while True:
            sample = synthesise(self._volumes, self._config, rng)
            yield torch.from_numpy(sample.inputs), torch.from_numpy(sample.target.astype(np.int64))


def train_prior(
    cohorts: Sequence[Cohort],
    out: Path,
    config: PriorConfig | None = None,
    *,
    init: str | Path | None = None,
    resume: bool = False,
    licence: str = "",
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Train a prior on the masks of cohorts.

    Args:
        cohorts: Cases with masks; each image of a case is a training volume of its own.
        out: The model folder; checkpoints lie beside it in "<out>.checkpoints" until it is complete.
        config: Settings.
        init: A prior to start from.
        resume: Continue from the newest checkpoint.
        licence: Of the weights, for the model card.
        workers: Processes that make the samples; with 0 they are made between the steps.
        device: Where to train.
        progress: Called after each step.
        cancel: Looked at before each step.

    Returns:
        `out`.

    Raises:
        CohortError: No case has a mask.
        ModelError: `init` or the checkpoint is not usable.
        Cancelled: Cancelled; a checkpoint was written.
    """
    config, progress, cancel = config or PriorConfig(), progress or SilentProgress(), cancel or CancelToken()
    out = Path(out)
    volumes = [volume for cohort in cohorts for volume in labelled_volumes(cohort)]
    torch.manual_seed(config.seed)
    network = load_prior(init) if init else CmFNet(prior_network(config.base_channels))
    run = _PriorRun(network.to(device), config, out.with_name(out.name + ".checkpoints"))
    if resume:
        run.restore()
    stream = SampleStream(volumes, config.synthesis, (config.seed, run.step))
    batches = iter(DataLoader(stream, config.batch_size, num_workers=workers, prefetch_factor=4 if workers else None))
    try:
        run.train(batches, progress, cancel)
    except BaseException:
        run.save()
        raise
    card = _card(out.name, network.config, cohorts, run, licence, init)
    save_model(out, run.average.network, card, weights="bfloat16")
    run.remove_checkpoints()
    return out


def prior_network(base_channels: int) -> CmFNetConfig:
    """The configuration of a prior's network."""
    return CmFNetConfig(prompt_channels=PROMPT_CHANNELS, base_channels=base_channels, dropout=0.0)


def labelled_volumes(cohort: Cohort) -> list[LabelledVolume]:
    """Every image of every case with a mask, in [0, 1] on its own grid.

    Raises:
        CohortError: No case has a mask.
    """
    volumes = []
    for case in cohort.cases:
        if case.mask is None:
            continue
        prepared = prepare_case(load_case(case, cohort), Preprocessing())
        volumes += [LabelledVolume(image, prepared.mask, prepared.spacing) for image in prepared.images]
    if not volumes:
        raise CohortError("A prior is trained on masks, but no case of the cohort has one: add masks to the cohort.")
    return volumes


class _PriorRun:
    """Network, optimiser and averaged weights, and how they are kept."""

    def __init__(self, network: CmFNet, config: PriorConfig, checkpoints: Path) -> None:
        self.network, self.config, self._checkpoints = network, config, checkpoints
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
        self.average = WeightAverage(network, config.ema_decay)
        self.step = 0
        self.seconds = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the steps or the minutes are used up."""
        return self.config.share_done(self.step, self.seconds) >= 1

    def train(self, batches: Iterator[list[Tensor]], progress: Progress, cancel: CancelToken) -> None:
        saved = before = time.monotonic()
        while not self.is_done:
            cancel.raise_if_cancelled()
            loss = self._take_step(*next(batches))
            self.seconds += time.monotonic() - before
            before = time.monotonic()
            done = round(1000 * self.config.share_done(self.step, self.seconds))
            progress(done, 1000, "train prior (per mille)", {"step": self.step, "loss": loss})
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = time.monotonic()

    def _take_step(self, inputs: Tensor, target: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step, self.seconds)
        device = next(self.network.parameters()).device
        inputs, target = inputs.to(device), target.to(device)
        self.network.train()
        with mixed_precision(device):
            logits = self.network(inputs)
        loss = sum(
            weight * full_supervision(logits[name], target, "dice_ce") for name, weight in BRANCH_WEIGHTS.items()
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.average.update(self.network)
        self.step += 1
        return float(loss.detach())

    def save(self) -> None:
        """Write a checkpoint."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "config": to_dict(self.config),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
        }
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self._checkpoints, self.step, state)

    def restore(self) -> None:
        """Continue from the newest checkpoint, if there is one."""
        newest = latest_checkpoint(self._checkpoints)
        if newest is None:
            return
        state = load_checkpoint(newest)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.step, self.seconds = state["step"], state["seconds"]

    def remove_checkpoints(self) -> None:
        """Delete them: the model is complete."""
        if self._checkpoints.is_dir():
            shutil.rmtree(self._checkpoints)


def _card(
    name: str, network: CmFNetConfig, cohorts: Sequence[Cohort], run: _PriorRun, licence: str, init: str | Path | None
) -> ModelCard:
    return ModelCard(
        name=name,
        architecture="cmfnet",
        network=asdict(network),
        modalities=("ct", "mr"),
        labels=LabelTable.from_names(["structure"]),
        provenance={
            "what": "prompted, class-agnostic CmFNet trained on synthetic samples of labelled volumes",
            "cases": [case.name for cohort in cohorts for case in cohort.cases if case.mask is not None],
            "settings": to_dict(run.config),
            "steps": run.step,
            "minutes": round(run.seconds / 60, 1),
            "init": None if init is None else Path(init).name,
        },
        licence=licence,
        seed=run.config.seed,
        versions=library_versions(),
    )
