"""A fit of one case, which can be finished early and gone on with later."""

from __future__ import annotations

import math
from collections.abc import Hashable

from torch import nn

from CrossModalSegLib.cli.devices import choose_device
from CrossModalSegLib.errors import InputError, OutputError
from CrossModalSegLib.fitting.fit_case import DEFAULT_PRIOR, FitConfig, fit_case
from CrossModalSegLib.fitting.fit_case import FitResult as Fitted
from CrossModalSegLib.fitting.search import Stage
from CrossModalSegLib.inference.model_folder import load_model, save_model
from CrossModalSegLib.volume import Volume, milliliters
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.jobs.case import by_class, case_of
from CrossModalSegLib.worker.messages import Answer, FitRequest, FitResult, Preview
from CrossModalSegLib.worker.store import KeptFit


def run(request: FitRequest, context: Context) -> FitResult:
    """Fit, and keep the network to go on from.

    Raises:
        CrossModalSegError: something in the request cannot be used.
        Cancelled: on request.
    """
    began = context.cancel.clock()
    _check(request)
    context.progress(0, 0, "preparing")
    loaded = case_of(request.images, request.scribbles)
    kept = _kept(request, context)
    fitted = fit_case(
        loaded,
        request.labels,
        _config(request),
        prior=request.start if request.start and request.method == "cmfnet" else DEFAULT_PRIOR,
        start=_start(request, kept),
        device=choose_device(request.device),
        probabilities=request.probabilities,
        uncertainty=request.uncertainty,
        progress=context.progress,
        cancel=context.cancel,
        finish=context.finish,
        on_preview=_preview(context) if request.preview_every else None,
    )
    context.progress(1, 1, "writing")
    if request.save_model is not None:
        save_model(request.save_model, fitted.network, fitted.card)
    if request.case:
        context.store.fits.put(request.case, KeptFit(_settings(request), fitted.network))
    return FitResult(
        labels=fitted.labels,
        milliliters=milliliters(fitted.labels, request.labels),
        probabilities=by_class(fitted.probabilities, fitted.labels, request.labels),
        uncertainty=fitted.uncertainty,
        history=_columns(fitted),
        answers=tuple(Answer(each.name, each.seconds, each.agreement, each.is_best) for each in fitted.stages),
        resumed=kept is not None,
        is_complete=not context.finish.cancelled,
        device=fitted.device,
        seconds=context.cancel.clock() - began,
    )


def _check(request: FitRequest) -> None:
    if not request.images:
        raise InputError("A fit needs an image: choose a CT, an MR or both.")
    if request.save_model is not None and request.save_model.exists():
        raise OutputError(f"The folder '{request.save_model}' for the model exists already; name a new one.")


def _config(request: FitRequest) -> FitConfig:
    every = {"preview_every": request.preview_every} if request.preview_every else {}
    return FitConfig(method=request.method, seconds=request.seconds, seed=request.seed, **every)


def _settings(request: FitRequest) -> tuple[Hashable, ...]:
    """What has to be equal for a fit to go on from another one."""
    return request.method, request.start, tuple(request.images), request.labels.names


def _kept(request: FitRequest, context: Context) -> KeptFit | None:
    kept = context.store.fits.get(request.case) if request.case and request.resume else None
    return kept if kept is not None and kept.settings == _settings(request) else None


def _start(request: FitRequest, kept: KeptFit | None) -> nn.Module | None:
    """The network to go on from: of the last fit, or a saved one that is no prior."""
    if kept is not None:
        return kept.network
    if request.start and request.method != "cmfnet":
        return load_model(request.start).network
    return None


def _preview(context: Context) -> object:
    def show(labels: Volume, stage: Stage) -> None:
        context.preview(Preview(labels, stage.name, stage.seconds, stage.agreement))

    return show


def _columns(fitted: Fitted) -> dict[str, list[float | None]]:
    """The loss terms as lists of one value a step."""
    names = list(dict.fromkeys(name for row in fitted.history for name in row))
    return {name: [_finite(row.get(name)) for row in fitted.history] for name in names}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
