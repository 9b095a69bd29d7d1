"""Training on a cohort, to a model that segments without scribbles."""

from __future__ import annotations

from typing import Any

from CrossModalSegLib.cli.cohorts import read_any_cohort
from CrossModalSegLib.cli.settings import merged
from CrossModalSegLib.config import from_dict, to_dict
from CrossModalSegLib.training.config import TrainingConfig, preset
from CrossModalSegLib.training.trainer import train
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.jobs.models import model_info
from CrossModalSegLib.worker.messages import ModelInfoResult, TrainRequest


def run(request: TrainRequest, context: Context) -> ModelInfoResult:
    """Train.

    Raises:
        CrossModalSegError: the cohort or a setting cannot be used.
        Cancelled: on request; a checkpoint stays beside the output, to resume from.
    """
    context.progress(0, 0, "preparing")
    folder = train(
        read_any_cohort(request.cohort),
        request.out,
        _config(request),
        resume=request.resume,
        resample=True,
        accelerator=request.device,
        progress=context.progress,
        cancel=context.cancel,
    )
    return model_info(folder, folder.name)


def _config(request: TrainRequest) -> TrainingConfig:
    """The preset, changed by the request."""
    changes: dict[str, Any] = dict(request.settings)
    if request.steps is not None:
        changes |= {"steps": request.steps, "epochs": None}
    # This process talks with the application: processes that are copies of it could answer in its place.
    start = to_dict(preset(request.preset, changes.get("method", "cmfnet"))) | {"num_workers": 0}
    settings = merged(start, changes)
    return from_dict(TrainingConfig, settings)
