"""`crossmodalseg train prior`: the prompted network that fits start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from CrossModalSegLib.cli.console import progress_bar, say

EXAMPLE = "crossmodalseg train prior --cohorts cohort/cohort.json --out models/prior --minutes 60"


@dataclass(frozen=True)
class Arguments:
    """Train the prompted CmFNet that `crossmodalseg fit` starts from, on the masks of one or more cohorts.

    It learns to follow scribbles on structures of any kind, in images synthesised from these cases: never judge a fit
    on a case that its prior was trained on. While it runs, checkpoints are in OUT.training; after Ctrl-C or a crash
    the same command with --resume goes on from there.

    Attributes:
        cohorts: cohort files with masks.
        out: model folder to make.
        minutes: length; the learning rate follows the clock. Instead of --steps.
        steps: length in optimiser steps.
        batch_size: samples a step.
        learning_rate: highest rate.
        base_channels: width of the network.
        start: prompted model to start from, folder or name.
        resume: continue a training that was stopped.
        licence: of the weights, for the model card.
        seed: of weights and samples.
        workers: processes that make the samples; with 0, a thread does. By default several beside
            a GPU on Linux, 0 elsewhere.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        quiet: show no progress.
    """

    cohorts: tuple[Path, ...]
    out: Path
    minutes: float | None = None
    steps: int | None = None
    batch_size: int = 2
    learning_rate: float = 2e-3
    base_channels: int = 8
    start: str | None = None
    resume: bool = False
    licence: str = ""
    seed: int = 0
    workers: int | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    quiet: bool = False


def run(args: Arguments) -> None:
    """Train and say where the model is."""
    from CrossModalSegLib.cli.cohorts import read_any_cohort
    from CrossModalSegLib.cli.numbers import check_duration, check_seed
    from CrossModalSegLib.cli.outputs import check_writable
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.fitting.prior_training import PriorConfig, train_prior

    check_seed(args.seed)
    check_writable(args.out.absolute().parent)
    if not args.cohorts:
        raise InputError("--cohorts needs at least one cohort file.")
    if args.minutes is not None and args.steps is not None:
        raise InputError("The length of a training is given once: as --minutes, or as --steps.")
    if args.minutes is not None:
        check_duration("--minutes", args.minutes)
    config = PriorConfig(
        minutes=args.minutes,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        base_channels=args.base_channels,
        seed=args.seed,
        **({} if args.steps is None else {"steps": args.steps}),
    )
    with progress_bar(args.quiet) as progress:
        folder = train_prior(
            [read_any_cohort(path) for path in args.cohorts],
            args.out,
            config,
            init=args.start,
            resume=args.resume,
            licence=args.licence,
            workers=args.workers,
            accelerator=args.device,
            progress=progress,
        )
    say(f"prompted model: {folder}")
    say(f"use it: crossmodalseg fit --model {folder} …")
