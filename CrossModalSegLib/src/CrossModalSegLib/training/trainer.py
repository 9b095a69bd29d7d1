"""Training a network on a cohort, from the first step or from a checkpoint, to a model folder.

While a training runs, everything that is needed to continue it is in the folder `<out>.training` beside the output.
The output itself, a model folder with `history.json`, `training.json` and `curve.png`, appears at the end, at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from CrossModalSegLib.cohort import Cohort
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.cache import is_cache, remove_cache
from CrossModalSegLib.data.patches import PatchSampler
from CrossModalSegLib.errors import OutputError
from CrossModalSegLib.progress import CancelToken, Progress, SilentProgress
from CrossModalSegLib.training.batches import BatchStream
from CrossModalSegLib.training.cases import TrainingCases, arrange_cases, check_annotations, prepare_cases
from CrossModalSegLib.training.checkpoint import (
    holds_only_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    remove_checkpoints,
)
from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.training.devices import Accelerator, build_fabric, choose_accelerator, choose_precision
from CrossModalSegLib.training.export import export_model
from CrossModalSegLib.training.interrupt import InterruptGuard
from CrossModalSegLib.training.loop import TrainingLoop
from CrossModalSegLib.training.methods.factory import build_method
from CrossModalSegLib.training.methods.method import MethodSetting
from CrossModalSegLib.training.network import leaves_parameters_unused, make_network
from CrossModalSegLib.training.resume import check_same_training
from CrossModalSegLib.training.rng import isolated_rng, seed_everything
from CrossModalSegLib.training.run import TrainingRun
from CrossModalSegLib.training.split import Split, split_cases

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)

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
        OutputError: The folder exists, or a stopped training is in its place, or it cannot be written.
        CohortError: A case lacks the scribbles, or the mask, that the method learns from.
        LabelError: Scribbles are empty, or a class or the background is nowhere labelled.
        InputError: Settings, devices or patch size do not fit, or differ from those of the training to resume.
        ModelError: The training diverged, or the checkpoint is damaged.
        Cancelled, KeyboardInterrupt: On request; a checkpoint was written.
    """
    out = Path(out)
    working = out.resolve().with_name(f"{out.resolve().name}.training")
    _check_output(out, working, resume)
    split = split_cases(cohort, config.fold, config.validation_share, config.seed)
    check_annotations(split.training, config.target, config.method)
    chosen = choose_accelerator(accelerator)
    precision = choose_precision(config.precision, chosen)
    with isolated_rng(), InterruptGuard(cancel) as guard, _no_remains(working):
        fabric = build_fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,
            find_unused_parameters=leaves_parameters_unused(config),
        )
        progress = progress if progress is not None and fabric.global_rank == 0 else SilentProgress()
        description = _describe(cohort, split, config, fabric)
        checkpoint = _open_working_folder(working, description, fabric, resume)
        cases = _load_cases(cohort, split, config, fabric, cache_dir or working / "cache", resample, progress, guard)
        with _open_run(cohort, cases, config, fabric) as run:
            loop = TrainingLoop(
                run,
                cases,
                cohort.labels.names,
                precision=precision,
                checkpoints=working / "checkpoints",
                description=description,
                progress=progress,
                guard=guard,
            )
            if checkpoint is not None:
                loop.resume(checkpoint)
            loop.run()
        if fabric.global_rank == 0:
            export_model(out, run, cohort, description=description["cases"], validated_on=cases.kind)
            _remove_working_folder(working)
        fabric.barrier()
    return out


def _check_output(out: Path, working: Path, resume: bool) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"The output folder '{out}' exists and is not empty; name another one"
            + (": the training that made it is finished." if resume else ", or delete it.")
        )
    if _is_foreign(working):
        raise OutputError(
            f"'{working}' is where the unfinished training would be kept, but something else is there; move it away, "
            "or name another output folder."
        )
    if latest_checkpoint(working / "checkpoints") is not None and not resume:
        raise OutputError(
            f"'{working}' holds a training that was stopped; resume it, or delete that folder to begin anew."
        )


@contextmanager
def _no_remains(working: Path) -> Iterator[None]:
    """Remove the working folder on failure, unless there is a checkpoint in it to continue from."""
    try:
        yield
    except BaseException:
        if latest_checkpoint(working / "checkpoints") is None:
            _remove_working_folder(working)
        raise


def _remove_working_folder(working: Path) -> None:
    """Remove what a training wrote there, and the folder unless something else is in it."""
    remove_checkpoints(working / "checkpoints")
    remove_cache(working / "cache")
    with suppress(OSError):
        working.rmdir()


def _is_foreign(working: Path) -> bool:
    """Whether there is something in the place of the working folder that no training made."""
    if not working.exists():
        return False
    if not working.is_dir():
        return True
    checkpoints = working / "checkpoints"
    is_ours = latest_checkpoint(checkpoints) is not None or holds_only_checkpoints(checkpoints)
    return any(working.iterdir()) and not (is_ours or is_cache(working / "cache"))


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


def _open_working_folder(working: Path, description: dict[str, Any], fabric: Fabric, resume: bool) -> Path | None:
    """Make the folder of the unfinished training, or find its checkpoint."""
    checkpoint = latest_checkpoint(working / "checkpoints") if resume else None
    checkpoint = fabric.broadcast(checkpoint)  # one answer for all, however late a network disk shows a folder
    if checkpoint is not None:
        saved = load_checkpoint(checkpoint)
        check_same_training({key: saved.get(key) for key in description}, description)
        return checkpoint
    if resume:
        logger.warning("There is no checkpoint in '%s': the training begins with the first step.", working)
    if fabric.global_rank == 0:
        try:
            working.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"'{working}' cannot be made ({error.strerror}); name another output folder.") from error
    fabric.barrier()
    return None


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
    return arrange_cases(
        prepared[:count],
        prepared[count:],
        target=config.target,
        class_names=cohort.labels.names,
        scribble_share=config.scribble_share,
        seed=config.seed,
    )


@contextmanager
def _open_run(cohort: Cohort, cases: TrainingCases, config: TrainingConfig, fabric: Fabric) -> Iterator[TrainingRun]:
    """A new training, ready for its first step."""
    count, processes = len(cases.training), fabric.world_size
    total_steps = config.total_steps(count, processes)
    setting = MethodSetting(cohort.labels.num_classes, total_steps, config.steps_per_epoch(count, processes))
    method = build_method(config, setting)
    seed_everything(config.seed)  # the same first weights in all processes
    network = make_network(config, method, setting.num_classes, len(cohort.modalities))
    seed = config.seed + SEEDS_PER_PROCESS * fabric.global_rank
    seed_everything(seed)
    sampler = PatchSampler(
        cases.training, config.patch_size, seed=seed, target=config.target, foreground=config.foreground
    )
    is_cuda = fabric.device.type == "cuda"
    stream = BatchStream(
        sampler, config.augmentation, config.batch_size, threads=max(1, config.num_workers), pin_memory=is_cuda
    )
    benchmark_before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_cuda  # patches have one size: looking for the fastest kernels pays off
    try:
        yield TrainingRun(fabric, network, method, stream, config, total_steps)
    finally:
        torch.backends.cudnn.benchmark = benchmark_before
        stream.close()
