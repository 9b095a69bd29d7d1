"""Targets segmented from scribbles on a reference; features stay in a session, so that strokes are answered soon."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import torch

from CrossModalSegLib.cli.devices import choose_device
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.errors import CrossModalSegError, InputError, SessionError
from CrossModalSegLib.inference.memory import is_beyond_mps, is_out_of_memory, on_device_or_cpu
from CrossModalSegLib.inference.referring.session import ReferResult as Referred
from CrossModalSegLib.inference.referring.session import ReferSession, check_strokes
from CrossModalSegLib.inference.referring.shipped import choice_told, default_model, open_default
from CrossModalSegLib.inference.referring.unseen import unnamed_organs
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.jobs.case import by_class
from CrossModalSegLib.worker.jobs.segment import model_key, warm_model
from CrossModalSegLib.worker.messages import REFERENCE, ReferRequest, ReferResult, ReferStrokesRequest

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class KeptSession:
    """A session under the names that the client gave; the library knows its targets by number, and logs no name.

    Attributes:
        session: with the features.
        model: its model's folder or name.
        key: of this model on its device, as it was then.
        chosen_for: the organs that the model was chosen for, where the request named no model.
        numbered: "target N" by the client's name.
        is_complete: whether all images of the last request were looked at, to the end.
    """

    session: ReferSession
    model: str
    key: tuple[object, ...]
    chosen_for: LabelTable | None = None
    numbered: dict[str, str] = field(default_factory=dict)
    is_complete: bool = False

    def set_images(self, reference: Volume, targets: dict[str, Volume], context: Context) -> None:
        """Look at these and forget all other targets."""
        self.is_complete = False
        self.numbered = {name: number for name, number in self.numbered.items() if name in targets}
        numbered = {self.numbered.setdefault(name, self._next()): image for name, image in targets.items()}
        self.session.set_images(reference, numbered, progress=context.progress, cancel=context.cancel)
        self.is_complete = True

    def named(self, number: str) -> str:
        """The client's name."""
        return next((name for name, each in self.numbered.items() if each == number), number)

    @contextmanager
    def telling_names(self) -> Iterator[None]:
        """Let errors name targets as the client does."""
        try:
            yield
        except CrossModalSegError as error:
            text = re.sub(r"target \d+", lambda found: self.named(found[0]), str(error))
            raise type(error)(text) from error

    def _next(self) -> str:
        taken = set(self.numbered.values())
        return next(name for n in count(1) if (name := f"target {n}") not in taken)


def run(request: ReferRequest, context: Context) -> ReferResult:
    """Segment reference and targets.

    Raises:
        CrossModalSegError: something in the request cannot be used.
        Cancelled: on request.
    """
    if REFERENCE in request.targets:
        raise InputError(f"'{REFERENCE}' is the name of the reference itself; give the target another one.")
    began = context.cancel.clock()
    context.progress(0, 0, "loading the model")
    kept, referred = on_device_or_cpu(partial(_refer, request, context), choose_device(request.device))
    return _result(kept, referred, request.labels, context.cancel.clock() - began)


def run_strokes(request: ReferStrokesRequest, context: Context) -> ReferResult:
    """Answer other strokes in a session.

    Raises:
        SessionError: the worker has no such session any more, or its model was replaced, or other organs need another.
        CrossModalSegError: something in the request cannot be used.
        Cancelled: on request.
    """
    began = context.cancel.clock()
    kept = context.store.sessions.get(request.session)
    if kept is None or not kept.is_complete:
        raise SessionError("The worker no longer has the features of these images: send them again.")
    if model_key(kept.model, kept.session.device) != kept.key:
        raise SessionError("Another model has this name now: send the images again.")
    if kept.chosen_for is not None and _may_need_another(kept.chosen_for, request.labels):
        raise SessionError("Another model may be the one for these organs: send the images again.")
    try:
        with kept.telling_names():
            referred = _answer(kept.session, request, context)
    except Exception as error:
        if not is_out_of_memory(error) and not is_beyond_mps(error, kept.session.device):
            raise
        context.store.sessions.drop(request.session)
        raise SessionError(
            f"The device {kept.session.device} cannot give a new answer: send the images again."
        ) from None
    return _result(kept, referred, request.labels, context.cancel.clock() - began)


def _refer(request: ReferRequest, context: Context, device: torch.device) -> tuple[KeptSession, Referred]:
    check_strokes(request.reference, request.scribbles, request.labels)
    kept = _session(request, context, device)
    with kept.telling_names():
        kept.set_images(request.reference, request.targets, context)
        return kept, _answer(kept.session, request, context)


def _session(request: ReferRequest, context: Context, device: torch.device) -> KeptSession:
    """The session of this name, if it has the same model on the same device; else a new one."""
    kept = context.store.sessions.get(request.session)
    open_model = partial(_opened, kept=kept, context=context, device=device)
    table = request.labels
    if request.model:
        opened, chosen_for = open_model(request.model), None
    else:
        opened = open_default(open_model, request.reference, request.scribbles, table, context.cancel)
        chosen_for = table
        logger.warning(choice_told(opened.model, table))
    opened.chosen_for = chosen_for
    context.store.sessions.put(request.session, opened)
    return opened


def _opened(name: str, kept: KeptSession | None, context: Context, device: torch.device) -> KeptSession:
    """A session of a model: the one that was kept, if it is of this one."""
    key = model_key(name, device)
    if kept is not None and kept.key == key:
        return kept
    return KeptSession(ReferSession(warm_model(name, device, context.store), device), name, key)


def _may_need_another(asked: LabelTable, table: LabelTable) -> bool:
    """Whether another model may be chosen for other organs: by their names, or, where they have none, by strokes."""
    return default_model(asked) != default_model(table) or set(unnamed_organs(table)) != set(unnamed_organs(asked))


def _answer(session: ReferSession, request: ReferRequest | ReferStrokesRequest, context: Context) -> Referred:
    return session.refer(
        request.scribbles,
        request.labels,
        probabilities=request.probabilities,
        pieces=request.pieces,
        tune_seconds=request.tune_seconds,
        progress=context.progress,
        cancel=context.cancel,
    )


def _result(kept: KeptSession, referred: Referred, table: LabelTable, seconds: float) -> ReferResult:
    grids = referred.segmentations
    return ReferResult(
        labels={kept.named(name): labels for name, labels in grids.items()},
        milliliters={kept.named(name): report.milliliters for name, report in referred.reports.items()},
        probabilities={
            kept.named(name): by_class(each, grids[name], table) for name, each in referred.probabilities.items()
        },
        reports={kept.named(name): to_dict(report) for name, report in referred.reports.items()},
        tuning=None if referred.tuning is None else to_dict(referred.tuning),
        device=str(kept.session.device),
        seconds=seconds,
    )
