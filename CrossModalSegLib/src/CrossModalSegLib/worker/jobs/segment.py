"""A trained model applied to images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from CrossModalSegLib.cli.devices import choose_device
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.inference.memory import on_device_or_cpu
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import CARD_FILE, WEIGHTS_FILE, LoadedModel, find_model, load_model
from CrossModalSegLib.inference.segment import SegmentationResult, segment_case
from CrossModalSegLib.volume import Volume, milliliters
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.jobs.case import by_class, case_of
from CrossModalSegLib.worker.messages import SegmentRequest, SegmentResult
from CrossModalSegLib.worker.store import Store


def run(request: SegmentRequest, context: Context) -> SegmentResult:
    """Segment.

    Raises:
        CrossModalSegError: something in the request cannot be used.
        Cancelled: on request.
    """
    began = context.cancel.clock()
    if not request.images:
        raise InputError("A segmentation needs an image: choose one.")
    context.progress(0, 0, "loading the model")
    (result, model), device = on_device_or_cpu(partial(_segment, request, context), choose_device(request.device))
    table = model.card.labels
    return SegmentResult(
        labels=result.labels,
        table=table,
        milliliters=milliliters(result.labels, table),
        probabilities=by_class(result.probabilities, result.labels, table),
        uncertainty=result.uncertainty,
        device=str(device),
        seconds=context.cancel.clock() - began,
    )


def _segment(
    request: SegmentRequest, context: Context, device: torch.device
) -> tuple[tuple[SegmentationResult, LoadedModel], torch.device]:
    model = warm_model(request.model, device, context.store)
    result = segment_case(
        model,
        case_of(_named_for(model.card, request.images)),
        probabilities=request.probabilities,
        uncertainty=request.uncertainty,
        overlap=request.overlap,
        precision=request.precision,
        progress=context.progress,
        cancel=context.cancel,
    )
    return (result, model), device


def warm_model(name: str, device: torch.device, store: Store) -> LoadedModel:
    """A model on a device, from memory where its files have not changed since.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    return store.models.get_or_make(model_key(name, device), lambda: load_model(name, device))


def model_key(name: str, device: torch.device) -> tuple[object, ...]:
    """What tells a model on a device from others, and from what its files held before.

    Raises:
        ModelError: there is none.
    """
    folder = find_model(name).resolve()
    return folder, str(device), _state(folder / CARD_FILE), _state(folder / WEIGHTS_FILE)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # which loading it will say
        return None
    return found.st_mtime_ns, found.st_size


def _named_for(card: ModelCard, images: dict[str, Volume]) -> dict[str, Volume]:
    """A single image fits a model of a single one, whatever their names."""
    if len(images) == len(card.modalities) == 1:
        return {card.modalities[0]: next(iter(images.values()))}
    return images
