"""`crossmodalseg train crossmr`: a referring network from cohorts with masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from CrossModalSegLib.cli.console import progress_bar, say

if TYPE_CHECKING:
    from CrossModalSegLib.training.referring.config import ReferringConfig

EXAMPLE = "crossmodalseg train crossmr --cohort cohort/cohort.json --out models/abdomen --minutes 60"


@dataclass(frozen=True)
class Arguments:
    """Train CrossMR, one of its ablations, or the 2D U-Net it is compared with, on the masks of one or more cohorts.

    Options that are not given are those of the preset. While it runs, checkpoints are in OUT.training; after Ctrl-C or
    a crash the same command with --resume goes on from there.

    Attributes:
        cohort: cohort files (.json, .csv) with masks; organs of the same name are the same. An organ that one of the
            cohorts has no label for is unknown there, not absent.
        out: model folder to make.
        preset: "paper" has the settings of the CrossMR paper, "default" is a compact network meant to follow a
            reference of any organ into any contrast, "fast" for trying out.
        ablation: "seem" (the baseline), "no-tokens", "no-organ-match", "no-paired-augmentation", "across-batch",
            "encoder-fixed", "from-scratch"; "unet" is a 2D U-Net on the reference modality without any reference.
        modalities: images of the cohorts to train on; all where not given.
        reference_modality: images that references are taken from; all that are trained on where not given.
        minutes: length; the learning rate follows the clock. One of --minutes, --steps and --epochs.
        steps: length in optimiser steps.
        epochs: length; in an epoch as many pairs are seen as there are slices with an organ.
        start: trained model of the same network to start from, folder or name.
        encoder_weights: .safetensors file with public weights of the encoder.
        resume: continue a training that was stopped.
        config: JSON file with further settings in the form of the training.json of a trained model; options given here
            come before it, and it before the preset.
        batch_size: pairs a step.
        learning_rate: highest rate of the schedule.
        image_size: rows and columns that slices are brought to, a multiple of 32.
        context: neighbour slices on either side that the network sees as well.
        fold: cases of this fold validate; without, a share of the cases does. They choose the weights, and from which
            probability on an organ counts as present in a slice.
        validation_share: that share, rounded down.
        precision: "bf16" computes with bfloat16 where the device does so natively.
        seed: of everything random.
        checkpoint_minutes: minutes between checkpoints.
        workers: processes that prepare batches; with 0, a thread does. By default several beside
            a GPU on Linux, 0 elsewhere.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        devices: number of GPUs (or processes on the CPU).
        licence: of the weights, for the model card.
        resample: bring images and mask of a case onto the grid of its first image.
        quiet: show no progress.
    """

    cohort: tuple[Path, ...]
    out: Path
    preset: Literal["paper", "default", "fast"] = "default"
    ablation: (
        Literal[
            "seem",
            "no-tokens",
            "no-organ-match",
            "no-paired-augmentation",
            "across-batch",
            "encoder-fixed",
            "from-scratch",
            "unet",
        ]
        | None
    ) = None
    modalities: tuple[str, ...] = ()
    reference_modality: tuple[str, ...] = ()
    minutes: float | None = None
    steps: int | None = None
    epochs: int | None = None
    start: str | None = None
    encoder_weights: Path | None = None
    resume: bool = False
    config: Path | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    image_size: int | None = None
    context: int | None = None
    fold: int | None = None
    validation_share: float | None = None
    precision: Literal["bf16", "fp32"] | None = None
    seed: int | None = None
    checkpoint_minutes: float | None = None
    workers: int | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    licence: str = ""
    resample: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Train and say what came out."""
    from CrossModalSegLib.cli.cohorts import read_any_cohort
    from CrossModalSegLib.cli.numbers import check_duration, check_seed
    from CrossModalSegLib.cli.outputs import check_writable
    from CrossModalSegLib.errors import InputError

    check_seed(args.seed)
    check_writable(args.out.absolute().parent)
    if not args.cohort:
        raise InputError("--cohort needs at least one cohort file.")
    if args.minutes is not None:
        check_duration("--minutes", args.minutes)
    from CrossModalSegLib.inference.model_folder import read_card
    from CrossModalSegLib.training.referring.trainer import Start, train_referring

    cohorts = [read_any_cohort(path) for path in args.cohort]
    config = referring_config(args)
    with progress_bar(args.quiet) as progress:
        folder = train_referring(
            cohorts,
            args.out,
            config,
            start=Start(args.start, args.encoder_weights, args.licence),
            resume=args.resume,
            resample=args.resample,
            accelerator=args.device,
            devices=args.devices,
            progress=progress,
        )
    if not (folder / "model.json").is_file():  # another process of the same training writes it
        return
    metrics = read_card(folder).metrics
    if metrics.get("dice") is not None:
        say(f"validation: mean DSC {metrics['dice']:.3f} on held-out pairs")
    say(f"model: {folder}")
    if config.method == "crossmr":
        say(f"use it: crossmodalseg refer --model {folder} …")


def referring_config(args: Arguments) -> ReferringConfig:
    """The preset or its ablation, changed by the settings file, changed by the options.

    Raises:
        InputError: a setting is unknown or not usable, or the length was given more than once.
    """
    from CrossModalSegLib.cli.settings import merged, settings_file
    from CrossModalSegLib.config import from_dict, to_dict
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.training.referring.config import ReferringConfig, preset

    lengths = ("minutes", "steps", "epochs")
    if sum(getattr(args, name) is not None for name in lengths) > 1:
        raise InputError("The length of a training is given once: as --minutes, --steps or --epochs.")
    if args.context is not None and args.context < 0:
        raise InputError(f"--context should be 0 or above, got {args.context}.")
    settings = to_dict(preset(args.preset, args.ablation))
    for changes in (settings_file(args.config) if args.config is not None else {}, _given(args)):
        if any(changes.get(name) is not None for name in lengths):
            settings.update(dict.fromkeys(lengths))
        settings = merged(settings, changes)
    return from_dict(ReferringConfig, settings)


def _given(args: Arguments) -> dict[str, object]:
    names = ("minutes", "steps", "epochs", "batch_size", "learning_rate", "fold", "validation_share", "precision")
    names += ("seed", "checkpoint_minutes")
    given: dict[str, object] = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.workers is not None:
        given["num_workers"] = args.workers
    if args.modalities:
        given["modalities"] = list(args.modalities)
    if args.reference_modality:
        given["reference_modalities"] = list(args.reference_modality)
    network: dict[str, object] = {}
    if args.image_size is not None:
        given["preprocessing"] = {"image_size": args.image_size}
        network["image_size"] = args.image_size
    if args.context is not None:
        given["pairs"] = {"context": args.context}
        network.update(context=args.context, encoder={"in_channels": 1 + 2 * args.context})
    if network:
        given["network"] = network
    return given
