"""`crossmodalseg train cmfnet`: a network from a cohort with scribbles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from CrossModalSegLib.cli.console import progress_bar, say

if TYPE_CHECKING:
    from CrossModalSegLib.training.config import TrainingConfig

EXAMPLE = "crossmodalseg train cmfnet --cohort cohort/cohort.json --out models/tumour --preset fast"


@dataclass(frozen=True)
class Arguments:
    """Train CmFNet, or one of the methods it is compared with, on a cohort; the result is a model folder.

    Options that are not given are those of the preset. While it runs, checkpoints are in OUT.training; after Ctrl-C or
    a crash the same command with --resume goes on from there. On several GPUs or machines start it with
    `torchrun --nproc-per-node N -m CrossModalSegLib train cmfnet …`.

    Attributes:
        cohort: cohort file (.json, .csv), or an nnU-Net raw folder with an ignore label (its dataset.json).
        out: model folder to make.
        preset: "paper" has the settings of the CmFNet paper (for other methods: those of their own), "default" is meant
            to be as good as possible, "fast" for trying out.
        resume: continue a training that was stopped.
        method: "cmfnet"; "pce" is partial cross-entropy alone, "full" learns from masks; "em", "tv", "ms", "ustm",
            "s2l", "dmsps" are weakly supervised methods from the literature.
        network: cmfnet, vnet, dual_decoder_vnet, m_cnn, mm_unet, da_vnet, resunet, unet_plus_plus, dense_unet, unetr
            or dynunet; the method's own where not given.
        epochs: length; in an epoch as many patches are seen as there are cases.
        steps: length in optimiser steps, instead of epochs.
        batch_size: patches a step.
        patch_size: voxels (slices, rows, columns), multiples of 16 for CmFNet.
        spacing: voxel size (slices, rows, columns) in mm to which images are brought; their own where not given.
        learning_rate: highest rate of the schedule.
        annotation: "masks" trains any method on the full masks.
        fold: cases of this fold validate: the weights that do best on them are kept; without, a share of the cases
            does.
        precision: "bf16" computes with bfloat16 where the device does so natively.
        seed: of everything random.
        validate_every: steps between validations.
        checkpoint_minutes: minutes between checkpoints.
        workers: processes that prepare batches; with 0, a thread does. By default several beside
            a GPU on Linux, 0 elsewhere.
        config: JSON file with further settings in the form of the training.json of a trained model; options given here
            come before it, and it before the preset.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        devices: number of GPUs (or processes on the CPU).
        cache: folder for prepared images, worth keeping between trainings.
        resample: bring images and scribbles of a case onto the grid of its first image.
        quiet: show no progress.
    """

    cohort: Path
    out: Path
    preset: Literal["paper", "default", "fast"] = "default"
    resume: bool = False
    method: Literal["cmfnet", "pce", "full", "em", "tv", "ms", "ustm", "s2l", "dmsps"] | None = None
    network: str | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    patch_size: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    learning_rate: float | None = None
    annotation: Literal["scribbles", "masks"] | None = None
    fold: int | None = None
    precision: Literal["bf16", "fp32"] | None = None
    seed: int | None = None
    validate_every: int | None = None
    checkpoint_minutes: float | None = None
    workers: int | None = None
    config: Path | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    cache: Path | None = None
    resample: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Train and say what came out."""
    from CrossModalSegLib.cli.cohorts import read_any_cohort
    from CrossModalSegLib.cli.numbers import check_seed
    from CrossModalSegLib.cli.outputs import check_writable

    check_seed(args.seed)
    check_writable(args.out.absolute().parent)
    from CrossModalSegLib.inference.model_folder import read_card
    from CrossModalSegLib.training.trainer import train

    cohort = read_any_cohort(args.cohort)
    config = training_config(args)
    with progress_bar(args.quiet) as progress:
        folder = train(
            cohort,
            args.out,
            config,
            resume=args.resume,
            resample=args.resample,
            cache_dir=args.cache,
            accelerator=args.device,
            devices=args.devices,
            progress=progress,
        )
    if not (folder / "model.json").is_file():  # another process of the same training writes it
        return
    metrics = read_card(folder).metrics
    if metrics.get("dice") is not None:
        say(f"validation: mean DSC {metrics['dice']:.3f} on {metrics.get('validated_on')}")
    say(f"model: {folder}")
    say(f"use it: crossmodalseg segment --model {folder} …")


def training_config(args: Arguments) -> TrainingConfig:
    """The preset of the method, changed by the settings file, changed by the options.

    Raises:
        InputError: a setting is unknown or not usable, or both epochs and steps were given.
    """
    from CrossModalSegLib.cli.settings import merged, settings_file
    from CrossModalSegLib.config import from_dict, to_dict
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.training.config import TrainingConfig, preset

    if args.epochs is not None and args.steps is not None:
        raise InputError("The length of a training is given once: as --epochs, or as --steps.")
    from_file = settings_file(args.config) if args.config is not None else {}
    chosen = preset(args.preset, args.method or from_file.get("method", "cmfnet"))
    settings = to_dict(chosen)
    given = _given(args)
    if {**from_file, **given}.get("network") not in (None, chosen.network_name):
        settings["network_options"] = {}  # those of the preset belong to its own network
    for changes in (from_file, given):
        if changes.get("steps") is not None or changes.get("epochs") is not None:
            settings.update(steps=None, epochs=None)
        settings = merged(settings, changes)
    if settings["method"] == "full" or settings["annotation"] == "masks":
        settings["second_stage"] = None
    return from_dict(TrainingConfig, settings)


def _given(args: Arguments) -> dict[str, Any]:
    names = (
        "method",
        "network",
        "epochs",
        "steps",
        "batch_size",
        "patch_size",
        "learning_rate",
        "annotation",
        "fold",
        "precision",
        "seed",
        "validate_every",
        "checkpoint_minutes",
    )
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.workers is not None:
        given["num_workers"] = args.workers
    if args.spacing is not None:
        given["preprocessing"] = {"spacing": list(args.spacing)}
    if args.patch_size is not None:
        given["patch_size"] = list(args.patch_size)
    return given
