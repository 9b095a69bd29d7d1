"""Training CrossMR, or the 2D U-Net it is compared with, from cohorts to a model folder.

As in `training.trainer`, everything that is needed to continue is in `<out>.training` while a training runs, and the
model folder appears at the end, at once. Prepared slices are kept in memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from CrossModalSegLib.cohort import Cohort
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.preprocess import Preprocessing
from CrossModalSegLib.data.referring.pair_sampler import PairBatch, PairSampler, collate_pairs
from CrossModalSegLib.data.referring.slices import SliceStack
from CrossModalSegLib.errors import CohortError, InputError, LabelError, ModelError
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import load_model
from CrossModalSegLib.models.crossmr import CrossMR
from CrossModalSegLib.models.focalnet_weights import WeightsReport, load_public_weights
from CrossModalSegLib.models.unet2d import UNet2d, UNet2dConfig
from CrossModalSegLib.progress import CancelToken, Progress
from CrossModalSegLib.training.batches import PlannedStream, batch_workers
from CrossModalSegLib.training.devices import (
    Accelerator,
    build_fabric,
    choose_accelerator,
    choose_precision,
    progress_of_first,
)
from CrossModalSegLib.training.export import best_network, model_name, run_facts, write_training
from CrossModalSegLib.training.interrupt import InterruptGuard
from CrossModalSegLib.training.referring.config import ReferringConfig
from CrossModalSegLib.training.referring.presence import choose_least_presence
from CrossModalSegLib.training.referring.run import ReferringLoop, ReferringRun
from CrossModalSegLib.training.referring.stacks import (
    Members,
    choose_contrasts,
    choose_members,
    content_of,
    load_stacks,
)
from CrossModalSegLib.training.rng import isolated_rng, seed_everything
from CrossModalSegLib.training.split import tell_if_none_validates
from CrossModalSegLib.training.trainer import SEEDS_PER_PROCESS
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

logger = logging.getLogger(__name__)

# Pairs to validate on are drawn by a sampler with this seed, whatever the training's.
VALIDATION_SEED = 20_240_501


@dataclass(frozen=True)
class Start:
    """What the weights begin with.

    Attributes:
        model: A trained model of the same network, folder or name; None for new weights.
        encoder_weights: A .safetensors file with public weights of the encoder; None for none.
        licence: Of the resulting weights, for the model card.
    """

    model: str | None = None
    encoder_weights: Path | None = None
    licence: str = ""


def train_referring(
    cohorts: Sequence[Cohort],
    out: str | Path,
    config: ReferringConfig,
    *,
    start: Start | None = None,
    resume: bool = False,
    resample: bool = False,
    accelerator: Accelerator = "auto",
    devices: int = 1,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Train a referring network.

    Args:
        cohorts: Cases with masks; labels of the same name are the same organ.
        out: The model folder to make.
        config: The settings; see `training.referring.config`.
        start: What the weights begin with.
        resume: Continue a training that was stopped; without one, begin.
        resample: Whether images and masks of a case may have different grids.
        accelerator: "cpu", "cuda", "mps", or "auto" for the best there is.
        devices: How many; under torchrun its own number counts.
        progress: Called after each prepared case and each step, with the loss terms as values.
        cancel: Looked at between steps.

    Returns:
        `out`.

    Raises:
        OutputError: The folder exists, or a training that was stopped or still runs is in its place, or it cannot be
            written.
        CohortError: A case lacks a mask, or a modality is in no cohort.
        LabelError: No slice holds an organ.
        InputError: Settings do not fit, or differ from those of the training to resume.
        ModelError: Weights to start from do not fit, the training diverged, or the checkpoint is damaged.
        Cancelled, KeyboardInterrupt: On request; a checkpoint was written.
    """
    out, start = Path(out), start or Start()
    working = working_folder(out)
    check_output(out, working, resume)
    members = choose_members(cohorts, config.fold, config.validation_share, config.seed)
    config = _completed(config, members)
    _warn_of_random_encoder(config, start)
    precision = choose_precision(config.precision, choose_accelerator(accelerator))
    with sole_training(working), isolated_rng(), InterruptGuard(cancel) as guard, no_remains(working):
        fabric = build_fabric(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            find_unused_parameters=True,  # organs that no pair of a process asks for
        )
        progress = progress_of_first(fabric, progress)
        if fabric.global_rank == 0:
            share = {"validation_share": config.validation_share}
            tell_if_none_validates(bool(members.validation), config.fold, share)
        description = _describe(members, config, start, fabric)
        checkpoint = find_checkpoint(working, description, fabric, resume)
        # Before the cases, whose loading may take long: weights that are missing or do not fit show here. Those of a
        # training that goes on are in its checkpoint.
        seed_everything(config.seed)  # the same first weights in all processes
        network = make_network(config, start if checkpoint is None else Start(), len(members.labels) + 1)
        load = {"resample": resample, "progress": progress, "cancel": guard}
        training = load_stacks(members.training, members.labels, config.modalities, config.preprocessing, **load)
        load["like"] = training[0].frame
        held_out = load_stacks(members.validation, members.labels, config.modalities, config.preprocessing, **load)
        content = content_of((*training, *held_out))
        with _open_run(training, members, network, config, fabric) as run:
            pairs = _validation_pairs(held_out, config)
            loop = ReferringLoop(
                run,
                pairs,
                members.labels.names,
                checkpoints=working / "checkpoints",
                description={**description, "content": content},
                progress=progress,
                guard=guard,
            )
            loop.run(checkpoint)
        if fabric.global_rank == 0:
            network = best_network(run)
            card = _card(out, network, run, members, start, description)
            if isinstance(network, CrossMR):
                card = replace(card, least_presence=choose_least_presence(network.eval(), pairs, fabric))
            write_training(out, network, card, run)
            remove_working_folder(working)
        fabric.barrier()
    return out


def _warn_of_random_encoder(config: ReferringConfig, start: Start) -> None:
    """Say so where an encoder without weights to start from learns less than the rest, or nothing."""
    gives_encoder = start.model is not None or (start.encoder_weights is not None and config.use_encoder_weights)
    if config.method != "crossmr" or config.encoder_rate >= 1 or gives_encoder:
        return
    how = f"learns at {config.encoder_rate:g} of the rate" if config.encoder_rate else "is kept as it is"
    logger.warning(
        "The encoder %s, but its weights are random: give weights of the encoder, or a model to start from, or train "
        "from scratch.",
        how,
    )


def _completed(config: ReferringConfig, members: Members) -> ReferringConfig:
    """With the modalities named.

    Raises:
        CohortError: A modality is in no cohort, a cohort has no reference modality, or there is none among those
            trained on.
        InputError: A U-Net was given several modalities.
    """
    contrasts = choose_contrasts(members, config.modalities)
    references = config.reference_modalities or contrasts
    missing = [name for name in references if name not in contrasts]
    if missing:
        raise CohortError(
            f"The reference modality {missing[0]} is not among those trained on ({', '.join(contrasts)}); add it."
        )
    choose_contrasts(members, references)  # each cohort needs one
    config = replace(config, modalities=contrasts, reference_modalities=tuple(references))
    if config.method != "unet":
        return config
    if len(references) != 1:
        raise InputError(
            f"The 2D U-Net learns from one reference modality alone; got {', '.join(references)}. Name one of them."
        )
    return replace(config, modalities=tuple(references))


def _describe(members: Members, config: ReferringConfig, start: Start, fabric: Fabric) -> dict[str, Any]:
    """What has to be the same for a training to be resumed."""
    return {
        "config": to_dict(config),
        "labels": list(members.labels.names),
        "cases": members.names,
        "start": {
            "model": None if start.model is None else Path(start.model).name,
            "encoder_weights": None if start.encoder_weights is None else _sha256(start.encoder_weights),
        },
        "processes_count": fabric.world_size,
    }


@contextmanager
def _open_run(
    stacks: Sequence[SliceStack], members: Members, network: nn.Module, config: ReferringConfig, fabric: Fabric
) -> Iterator[ReferringRun]:
    """A new training, ready for its first step."""
    seed = config.seed + SEEDS_PER_PROCESS * fabric.global_rank
    seed_everything(seed)
    sampler = _sampler(stacks, config, seed)
    stream = PlannedStream(
        sampler,
        sampler.make_batch,
        config.batch_size,
        workers=batch_workers(config.num_workers, fabric.device),
        pin_memory=fabric.device.type == "cuda",
    )
    try:
        total_steps = config.total_steps(sampler.num_slices, fabric.world_size)
        yield ReferringRun(fabric, network, stream, config, len(members.labels.names) + 1, total_steps)
    finally:
        stream.close()


def _sampler(stacks: Sequence[SliceStack], config: ReferringConfig, seed: int) -> PairSampler:
    return PairSampler(
        stacks,
        config.pairs,
        seed=seed,
        reference_contrasts=config.reference_modalities,
        target_contrasts=config.modalities,
    )


def make_network(config: ReferringConfig, start: Start, num_classes: int) -> nn.Module:
    """The network with new weights, or those to start from.

    Raises:
        ModelError: The weights belong to another network.
    """
    if config.method == "unet":
        network: nn.Module = UNet2d(UNet2dConfig(num_classes, in_channels=1 + 2 * config.pairs.context))
    else:
        network = CrossMR(config.network)
    if start.model is not None:
        loaded = load_model(start.model)
        if to_dict(loaded.network.config) != to_dict(network.config):
            raise ModelError(
                f"The model to start from, {start.model}, has another network than this training; use its settings, "
                "or begin with new weights."
            )
        network.load_state_dict(loaded.network.state_dict())
    if start.encoder_weights is not None and config.use_encoder_weights:
        if config.method == "unet":
            raise InputError("The 2D U-Net has no encoder that weights could be given to; leave them out.")
        _warn_of_random_levels(load_public_weights(network.encoder, start.encoder_weights))
    return network


def _warn_of_random_levels(report: WeightsReport) -> None:
    random = [name for name in report.missing if ".focal_layers." in name]
    if random:
        logger.warning(
            "The encoder has more focal levels than the file of weights: %d of its convolutions begin with random "
            "weights. Give it those of the file by focal_levels in a settings file.",
            len(random),
        )


def _validation_pairs(stacks: Sequence[SliceStack], config: ReferringConfig) -> list[PairBatch]:
    """Pairs of held-out cases, always the same; only the contrasts that the cohort has, without augmentation.

    Raises:
        LabelError: No held-out slice holds an organ.
    """
    if not stacks:
        return []
    plain = replace(config, pairs=replace(config.pairs, augmentation=None))
    try:
        sampler = _sampler(stacks, plain, VALIDATION_SEED)
    except LabelError as error:
        names = ", ".join(stack.name for stack in stacks)
        raise LabelError(
            f"The training cannot be validated on {names}: no slice there holds {config.pairs.min_pixels} pixels of an "
            "organ. Hold other cases out, by a fold or another seed, or none."
        ) from error
    pairs = [sampler.make(sampler.plan()) for _ in range(config.validation_pairs)]
    return [collate_pairs(pairs[n : n + config.batch_size]) for n in range(0, len(pairs), config.batch_size)]


def _card(
    out: Path, network: nn.Module, run: ReferringRun, members: Members, start: Start, description: dict[str, Any]
) -> ModelCard:
    config = run.config
    is_unet = isinstance(network, UNet2d)
    return ModelCard(
        name=model_name(out),
        architecture="unet2d" if is_unet else "crossmr",
        network=to_dict(network.config),
        modalities=config.modalities if is_unet else ("image",),
        labels=members.labels,
        preprocessing=Preprocessing(percentiles=config.preprocessing.percentiles, orientation="lps"),
        slices=config.preprocessing,
        provenance={
            "method": config.method,
            "modalities": list(config.modalities),
            "settings": to_dict(config),
            "cases": description["cases"],
            "start": description["start"],
            **run_facts(run),
        },
        metrics=_metrics(run),
        licence=start.licence,
        seed=config.seed,
        versions=library_versions(),
    )


def _metrics(run: ReferringRun) -> dict[str, Any]:
    if not run.history.validation:
        return {"validated_on": "none"}
    return {"validated_on": "pairs", **min(run.history.validation, key=lambda entry: entry["loss"])}


def _sha256(path: Path) -> str:
    if not Path(path).is_file():
        raise InputError(f"The encoder weights '{path}' do not exist; name a .safetensors file.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
