"""Training a network on a cohort, from the first step or from a checkpoint, to a model folder.

While a training runs, everything that is needed to continue it is in the folder `<out>.training` beside the output.
The output itself, a model folder with `history.json`, `training.json` and `curve.png`, appears at the end, at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from CrossModalSegLib.cohort import Cohort
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.cache import remove_cache
from CrossModalSegLib.data.patches import PatchSampler
from CrossModalSegLib.progress import CancelToken, Progress
from CrossModalSegLib.training.batches import BatchStream, batch_workers
from CrossModalSegLib.training.cases import TrainingCases, arrange_cases, check_annotations, prepare_cases
from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.training.devices import (
    Accelerator,
    build_fabric,
    choose_accelerator,
    choose_precision,
    progress_of_first,
)
from CrossModalSegLib.training.export import export_model
from CrossModalSegLib.training.interrupt import InterruptGuard
from CrossModalSegLib.training.loop import TrainingLoop
from CrossModalSegLib.training.methods.factory import build_method
from CrossModalSegLib.training.methods.method import Method, MethodSetting
from CrossModalSegLib.training.network import leaves_parameters_unused, make_network
from CrossModalSegLib.training.rng import isolated_rng, seed_everything
from CrossModalSegLib.training.run import TrainingRun
from CrossModalSegLib.training.split import Split, split_cases, tell_if_none_validates
from CrossModalSegLib.training.working_folder import (
    check_output,
    find_checkpoint,
    no_remains,
    remove_working_folder,
    sole_training,
    working_folder,
)

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# So far apart are the seeds of the processes of one training.
SEEDS_PER_PROCESS = 1_000_003


def train(
    cohort: Cohort,
    out: str | Path,
    config: TrainingConfig,
    *,
    resume: bool = False,
    resample: bool = False,
    cache_dir: Path | None = None,
    accelerator: Accelerator = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Train a network.

    Args:
        cohort: Cases with scribbles, or with masks for full supervision.
        out: The model folder to make.
        config: The settings; see `PRESETS`.
        resume: Continue a training that was stopped; without one, begin.
        resample: Whether images, scribbles and masks of a case may have different grids; see `load_case`.
        cache_dir: Where prepared cases are kept; None keeps them until the training is finished.
        accelerator: "cpu", "cuda", "mps", or "auto" for the best there is.
        devices, num_nodes: How many on each machine, and machines; under torchrun its own numbers count.
        strategy: Of Lightning Fabric; "auto" takes DDP for several processes.
        progress: Called after each prepared case and each step, with the loss terms as values.
        cancel: Looked at between steps.

    Returns:
        `out`.

    Raises:
        OutputError: The folder exists, or a training that was stopped or still runs is in its place, or it cannot be
            written.
        CohortError: A case lacks the scribbles, or the mask, that the method learns from.
        LabelError: Scribbles are empty, or a class or the background is nowhere labelled.
        InputError: Settings, devices or patch size do not fit, or differ from those of the training to resume.
        ModelError: The training diverged, or the checkpoint is damaged.
        Cancelled, KeyboardInterrupt: On request; a checkpoint was written.
    """
    out = Path(out)
    working = working_folder(out)
    check_output(out, working, resume)
    split = split_cases(cohort, config.fold, config.validation_share, config.seed)
    check_annotations(split.training, config.target, config.method)
    chosen = choose_accelerator(accelerator)
    precision = choose_precision(config.precision, chosen)
    with sole_training(working), isolated_rng(), InterruptGuard(cancel) as guard, no_remains(working):
        fabric = build_fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,
            find_unused_parameters=leaves_parameters_unused(config),
        )
        progress = progress_of_first(fabric, progress)
        description = _describe(cohort, split, config, fabric)
        checkpoint = find_checkpoint(working, description, fabric, resume)
        # Before the cases, whose preparation may take long: settings that do not fit together show here.
        method, network = _build(cohort, len(split.training), config, fabric)
        cases = _load_cases(cohort, split, config, fabric, cache_dir or working / "cache", resample, progress, guard)
        content = _content(cases)
        with _open_run(cases, method, network, config, fabric) as run:
            loop = TrainingLoop(
                run,
                cases,
                cohort.labels.names,
                precision=precision,
                checkpoints=working / "checkpoints",
                description={**description, "content": content},
                progress=progress,
                guard=guard,
            )
            loop.run(checkpoint)
        if fabric.global_rank == 0:
            remove_cache(working / "cache")  # makes room for the model
            export_model(out, run, cohort, description=description["cases"], validated_on=cases.kind)
            remove_working_folder(working)
        fabric.barrier()
    return out


def _describe(cohort: Cohort, split: Split, config: TrainingConfig, fabric: Fabric) -> dict[str, Any]:
    """What has to be the same for a training to be resumed."""
    return {
        "config": to_dict(config),
        "cohort": {"modalities": list(cohort.modalities), "labels": list(cohort.labels.names)},
        "cases": {
            "training": [case.name for case in split.training],
            "validation": [case.name for case in split.validation],
        },
        "processes_count": fabric.world_size,
    }


def _content(cases: TrainingCases) -> dict[str, str | None]:
    """Hashes of what the cases hold, by their names."""
    return {case.name: case.key for case in (*cases.training, *(case for case, _ in cases.validation))}


def _load_cases(
    cohort: Cohort,
    split: Split,
    config: TrainingConfig,
    fabric: Fabric,
    cache_dir: Path,
    resample: bool,
    progress: Progress,
    guard: InterruptGuard,
) -> TrainingCases:
    with fabric.rank_zero_first():  # the others find its results in the cache
        prepared = prepare_cases(
            cohort,
            (*split.training, *split.validation),
            config.preprocessing,
            cache_dir=cache_dir,
            resample=resample,
            progress=progress,
            cancel=guard,
        )
    count = len(split.training)
    cases = arrange_cases(
        prepared[:count],
        prepared[count:],
        target=config.target,
        class_names=cohort.labels.names,
        scribble_share=config.scribble_share,
        seed=config.seed,
    )
    if fabric.global_rank == 0:
        shares = {"validation_share": config.validation_share}
        if config.target == "scribbles":
            shares["scribble_share"] = config.scribble_share
        tell_if_none_validates(cases.kind != "none", config.fold, shares)
    return cases


def _build(cohort: Cohort, cases_count: int, config: TrainingConfig, fabric: Fabric) -> tuple[Method, nn.Module]:
    """The method, and the network with its first weights, which are the same in all processes."""
    processes = fabric.world_size
    setting = MethodSetting(
        cohort.labels.num_classes,
        config.total_steps(cases_count, processes),
        config.steps_per_epoch(cases_count, processes),
    )
    method = build_method(config, setting)
    seed_everything(config.seed)
    return method, make_network(config, method, setting.num_classes, len(cohort.modalities))


@contextmanager
def _open_run(
    cases: TrainingCases, method: Method, network: nn.Module, config: TrainingConfig, fabric: Fabric
) -> Iterator[TrainingRun]:
    """A new training, ready for its first step."""
    seed = config.seed + SEEDS_PER_PROCESS * fabric.global_rank
    seed_everything(seed)
    sampler = PatchSampler(
        cases.training, config.patch_size, seed=seed, target=config.target, foreground=config.foreground
    )
    is_cuda = fabric.device.type == "cuda"
    stream = BatchStream(
        sampler,
        config.augmentation,
        config.batch_size,
        workers=batch_workers(config.num_workers, fabric.device),
        pin_memory=is_cuda,
    )
    benchmark_before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_cuda  # patches have one size: looking for the fastest kernels pays off
    try:
        yield TrainingRun(fabric, network, method, stream, config, method.setting.total_steps)
    finally:
        torch.backends.cudnn.benchmark = benchmark_before
        stream.close()
