"""Fit one case from its scribbles: a first answer within seconds, better ones while time remains.

The default method, "cmfnet", starts from a prompted CmFNet that ships with the library, answers at once, and then
tunes it on the case with the paper's hybrid supervision and partial Dice. "scratch" trains an ordinary CmFNet on the
case alone with the same terms, "pce" a V-Net with partial cross-entropy alone (the paper's baseline). A share of the
scribbled slices is held out, and the answer that agrees best with them is the one that is returned: it is never worse
there than the first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.preprocess import PreparedCase, Preprocessing
from CrossModalSegLib.errors import InputError, LabelError, ModelError
from CrossModalSegLib.fitting.judge import split_scribbles
from CrossModalSegLib.fitting.prompted import MODALITIES
from CrossModalSegLib.fitting.prompts import PROMPT_CHANNELS
from CrossModalSegLib.fitting.search import OnPreview, Search, SearchLimits, Stage
from CrossModalSegLib.fitting.tuning import Loss, PromptedTuner, PromptedTuning, ScratchTuner, ScratchTuning, Tuner
from CrossModalSegLib.fitting.working_case import WorkingCase, working_case
from CrossModalSegLib.inference.memory import on_device_or_cpu
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import load_model
from CrossModalSegLib.labels import LabelTable, check_scribbles
from CrossModalSegLib.losses.hybrid import HybridConfig, hybrid_loss
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig
from CrossModalSegLib.models.vnet import VNet, VNetConfig
from CrossModalSegLib.progress import CancelToken, Progress, SilentProgress
from CrossModalSegLib.training.cases import branch_order
from CrossModalSegLib.training.rng import isolated_rng
from CrossModalSegLib.versions import library_versions
from CrossModalSegLib.volume import Volume

Method = Literal["cmfnet", "scratch", "pce"]
DEFAULT_PRIOR = "scribble-prior"
# The prior is good already: a weaker CRF than the paper's, and Dice against the imbalance of single classes.
PROMPTED_LOSS = HybridConfig(lambda_ct=0.02, lambda_mr=0.02, dice_weight=1.0)
SCRATCH_LOSS = HybridConfig(dice_weight=1.0)
PARTIAL_LOSS = HybridConfig(imr=False, imc=False)


@dataclass(frozen=True)
class FitConfig:
    """How a case is fitted.

    Attributes:
        method: "cmfnet": the prompted CmFNet, tuned on the case; "scratch": a CmFNet trained on the case alone with the
            hybrid loss and partial Dice; "pce": a V-Net trained on the case alone with partial cross-entropy.
        seconds: Time for training, or at most for tuning, which ends after `search.TUNING_STEPS` steps; the first
            answer and the writing of the result come on top.
        preview_every: Seconds between two answers.
        held_out: Share of the scribbled slices that only judges.
        patience: Answers without a better one after which the fit stops early; 0 for no such limit.
        base_channels: Width of a network trained from scratch.
        tuning, scratch: Settings of the optimisation.
        seed: Of every random choice.
    """

    method: Method = "cmfnet"
    seconds: float = 150.0
    preview_every: float = 30.0
    held_out: float = 0.2
    patience: int = 0
    base_channels: int = 8
    tuning: PromptedTuning = PromptedTuning()
    scratch: ScratchTuning = ScratchTuning()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("cmfnet", "scratch", "pce"):
            raise InputError(f'The fit method is "cmfnet", "scratch" or "pce"; got "{self.method}".')
        if not (0 <= self.seconds < np.inf and self.preview_every > 0):
            raise InputError(
                "The seconds of a fit must be 0 or more and finite, and those between previews more than 0; "
                f"got {self.seconds} and {self.preview_every}."
            )
        if self.method != "cmfnet" and self.seconds == 0:
            raise InputError(f'The method "{self.method}" starts from nothing: give it some seconds to learn.')
        if self.seed < 0:
            raise InputError(f"The seed of a fit must be 0 or more; got {self.seed}.")
        if not 0 <= self.held_out < 1:
            raise InputError(f"The held-out share of the scribbled slices lies within 0 and 1; got {self.held_out}.")


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit gives, on the case's own grid.

    Attributes:
        labels: uint8, 0 background and 1..K; scribbled voxels have the class the user said.
        probabilities: (K + 1, k, j, i) float32, or None.
        uncertainty: float32 entropy over ln(K + 1), or None.
        network: The fitted network, on the CPU.
        card: What it is; `save_model(folder, result.network, result.card)` keeps it, to start the next fit from a
            prompted one, or to segment without scribbles with the others.
        history: Loss terms by step.
        stages: The answers in order.
        device: Where it was computed: the one asked for, or the CPU where that one's memory was too small.
    """

    labels: Volume
    probabilities: np.ndarray | None
    uncertainty: Volume | None
    network: nn.Module
    card: ModelCard
    history: list[dict[str, float]] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    device: str = "cpu"


def fit_case(
    loaded: LoadedCase,
    table: LabelTable,
    config: FitConfig | None = None,
    *,
    prior: str | Path = DEFAULT_PRIOR,
    start: nn.Module | None = None,
    device: torch.device | str = "cpu",
    probabilities: bool = False,
    uncertainty: bool = False,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    finish: CancelToken | None = None,
    on_preview: OnPreview | None = None,
) -> FitResult:
    """Segment a case from its scribbles.

    Args:
        loaded: One image, or CT and MR, on one grid, with scribbles.
        table: The classes of the scribbles.
        config: Method, time and seed.
        prior: The prompted model that "cmfnet" starts from: its folder or name.
        start: The network of an earlier fit of the same method, modalities and classes to go on from; not changed. The
            prior has to be that of the earlier fit.
        device: Where to compute.
        probabilities, uncertainty: Whether the result holds them.
        progress: Called with whole seconds done and in all.
        cancel: Stops the fit with `Cancelled`.
        finish: Stops the fit; the best answer so far is returned, or the first one as soon as there is one.
        on_preview: Called with the labels of each best answer so far, on the case's own grid.

    Raises:
        InputError: The case has no scribbles, or more than two images.
        LabelError: A class or the background has no scribble, or a scribble has no class.
        ModelError: The prior is missing, damaged, or not a prompted model; or `start` is another network.
        Cancelled: The cancel token was set.
    """
    config, cancel, progress = config or FitConfig(), cancel or CancelToken(), progress or SilentProgress()
    if loaded.scribbles is None:
        raise InputError(f"The case {loaded.name} has no scribbles to fit: give a scribble file.")
    if len(loaded.images) > MODALITIES:
        raise InputError(f"A fit takes one image, or CT and MR; the case {loaded.name} has {len(loaded.images)}.")
    check_scribbles(loaded.scribbles.array, table)
    working = working_case(loaded, for_prior=config.method == "cmfnet")
    _check_working_scribbles(working.prepared, table)
    judge = split_scribbles(working.prepared.scribbles, config.held_out, np.random.default_rng(config.seed))
    limits = SearchLimits(config.seconds, config.preview_every, config.patience)

    def run(where: torch.device) -> tuple[Search, np.ndarray]:
        tuner = _tuner(config, working, judge.shown, table.num_classes, prior, start, where)
        search = Search(working, judge, tuner, limits, progress, cancel, on_preview, finish)
        return search, search.run()

    with isolated_rng():
        search, best = on_device_or_cpu(run, torch.device(device))
    return _result(best, working, loaded, table, config, search, probabilities, uncertainty)


def _check_working_scribbles(case: PreparedCase, table: LabelTable) -> None:
    """LabelError where all strokes of a class lie on larger voxels that strokes of others take."""
    try:
        check_scribbles(case.scribbles, table)
    except LabelError as error:
        spacing = " × ".join(f"{mm:.3g}" for mm in case.spacing)
        raise LabelError(
            f"At the resolution of the fit, voxels of {spacing} mm, strokes that are small and close fall onto one "
            f"another. {error}"
        ) from error


def _tuner(
    config: FitConfig,
    working: WorkingCase,
    shown: np.ndarray,
    num_classes: int,
    prior: str | Path,
    start: nn.Module | None,
    device: torch.device,
) -> Tuner:
    torch.manual_seed(config.seed)
    case = working.prepared
    if config.method == "cmfnet":
        network, loss = load_prior(prior), _loss(PROMPTED_LOSS)
        _check_start(start, network)
        settings = (loss, config.tuning, config.seed, device, start, working.thicknesses, working.thin)
        return PromptedTuner(network, case, shown, num_classes, *settings)
    modalities, width = len(case.images), config.base_channels
    if config.method == "scratch":
        network, loss = CmFNet(CmFNetConfig(num_classes, modalities, base_channels=width)), _loss(SCRATCH_LOSS)
    else:
        network, loss = VNet(VNetConfig(num_classes, modalities, base_channels=width)), _loss(PARTIAL_LOSS)
    _check_start(start, network)
    learned = replace(case, scribbles=shown)
    return ScratchTuner(network, learned, loss, config.scratch, config.seed, device, start)


def _check_start(start: nn.Module | None, network: nn.Module) -> None:
    """ModelError unless `start` is None or a network of the same configuration."""
    if start is not None and (type(start), start.config) != (type(network), network.config):
        raise ModelError("The fit to go on from has another network: start a new one, or take the same settings.")


def load_prior(prior: str | Path) -> CmFNet:
    """A fresh copy of a prompted network.

    Raises:
        ModelError: Missing, damaged, or not a prompted model.
    """
    network = load_model(prior).network
    config = getattr(network, "config", None)
    if not isinstance(config, CmFNetConfig) or (config.num_classes, config.prompt_channels) != (2, PROMPT_CHANNELS):
        raise ModelError(
            f"The model '{prior}' does not read scribbles as prompts, so a fit cannot start from it: leave it out, "
            "or name a model that `crossmodalseg train prior` or a fit made."
        )
    return network


def _loss(config: HybridConfig) -> Loss:
    return partial(_hybrid, config)


def _hybrid(
    config: HybridConfig,
    logits: dict[str, Tensor],
    images: Tensor,
    scribbles: Tensor,
    spacing: tuple[float, float, float],
    inside: Tensor | None = None,
) -> dict[str, Tensor]:
    return hybrid_loss(logits, images, scribbles, config, spacing, inside=inside)


def _result(
    best: np.ndarray,
    working: WorkingCase,
    loaded: LoadedCase,
    table: LabelTable,
    config: FitConfig,
    search: Search,
    probabilities: bool,
    uncertainty: bool,
) -> FitResult:
    answer = working.answer(best, with_probabilities=probabilities, with_uncertainty=uncertainty)
    device = str(next(search.tuner.network.parameters()).device)
    network = search.tuner.network.cpu().eval()
    return FitResult(
        labels=answer.labels,
        probabilities=answer.probabilities,
        uncertainty=answer.uncertainty,
        network=network,
        card=_card(network, loaded, table, working, config),
        history=search.history,
        stages=search.stages,
        device=device,
    )


def _card(
    network: nn.Module, loaded: LoadedCase, table: LabelTable, working: WorkingCase, config: FitConfig
) -> ModelCard:
    is_prompted = config.method == "cmfnet"
    return ModelCard(
        name="fit",
        architecture="vnet" if config.method == "pce" else "cmfnet",
        network=to_dict(network.config),
        modalities=("ct", "mr") if is_prompted else branch_order(loaded.images),
        labels=LabelTable.from_names(["structure"]) if is_prompted else table,
        preprocessing=Preprocessing(spacing=working.prepared.spacing),
        provenance={"what": "fitted to the scribbles of one case", "fit": to_dict(config)},
        seed=config.seed,
        versions=library_versions(),
    )
