"""`crossmodalseg train prior`: the network that fits start from, from masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from CrossModalSegLib.cli.console import progress_bar, say

EXAMPLE = "crossmodalseg train prior --cohort cohort/cohort.json --out models/prior --minutes 60"


@dataclass(frozen=True)
class Arguments:
    """Train the prompted network that `fit` starts from: it learns to follow scribbles, whatever they are drawn on.

    Samples are made without end from the images and masks: random crops, contrasts, lesions and scribbles. While it
    runs, checkpoints are in OUT.checkpoints; after Ctrl-C or a crash the same command with --resume goes on.

    Attributes:
        cohort: cohort files (.json, .csv) of cases with masks.
        out: model folder to make.
        minutes: time to train; the learning rate falls over it.
        steps: length in optimiser steps, where no minutes are given.
        init: prior to start from, folder or name.
        base_channels: width of the network.
        learning_rate: highest rate of the schedule.
        licence: of the weights, as the licences of the images allow.
        seed: of everything random.
        resume: continue a training that was stopped.
        workers: 1 makes the samples in a second process.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        quiet: show no progress.
    """

    cohort: tuple[Path, ...]
    out: Path
    minutes: float | None = None
    steps: int = 5000
    init: str | None = None
    base_channels: int = 8
    learning_rate: float = 2e-3
    licence: str = ""
    seed: int = 0
    resume: bool = False
    workers: int = 0
    device: str = "auto"
    quiet: bool = False


def run(args: Arguments) -> None:
    """Train and say where the model is."""
    from CrossModalSegLib.cli.cohorts import read_any_cohort
    from CrossModalSegLib.cli.devices import choose_device
    from CrossModalSegLib.cli.outputs import check_new_folder
    from CrossModalSegLib.fitting.prior_training import PriorConfig, train_prior

    check_new_folder(args.out, overwrite=False)
    config = PriorConfig(
        steps=args.steps,
        minutes=args.minutes,
        learning_rate=args.learning_rate,
        base_channels=args.base_channels,
        seed=args.seed,
    )
    with progress_bar(args.quiet) as progress:
        folder = train_prior(
            [read_any_cohort(path) for path in args.cohort],
            args.out,
            config,
            init=args.init,
            resume=args.resume,
            licence=args.licence,
            workers=args.workers,
            device=choose_device(args.device),
            progress=progress,
        )
    say(f"model: {folder}")
    say(f"use it: crossmodalseg fit --model {folder} …")
