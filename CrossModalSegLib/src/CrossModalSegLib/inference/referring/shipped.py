"""Which of the models that ship answers where none is named."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Protocol, TypeVar

from CrossModalSegLib.inference.model_folder import list_models, read_card
from CrossModalSegLib.inference.referring.unseen import unnamed_organs, unseen_organs
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.volume import Volume

DEFAULT_MODEL = "abdomen-mr"
BROAD_MODEL = "abdomen-organs"
# Of strokes on its four organs the first model marks a share of 0.44 or more on real MR, mean over the organs; of those
# on hearts 0.25 or less, and hardly any of those on a stomach or an aorta.
LEAST_SEEN = 1 / 3
# An organ below this is not found at all, so that another model can only gain. Of strokes on the four organs hardly any
# are, whose answers lose few points by it.
LEAST_SEEN_OF_EACH = 0.1


class Seeing(Protocol):
    """A session of a model, as far as it is needed here."""

    def seen(
        self, image: Volume, scribbles: Volume, table: LabelTable, cancel: CancelToken | None = None
    ) -> dict[str, float]:
        """See `ReferSession.seen`."""


class Opened(Protocol):
    """A model that is ready to answer, by its session."""

    @property
    def session(self) -> Seeing:
        """Of the model."""


AnyOpened = TypeVar("AnyOpened", bound=Opened)


def open_default(
    open_model: Callable[[str], AnyOpened],
    image: Volume,
    scribbles: Volume,
    table: LabelTable,
    cancel: CancelToken | None = None,
) -> AnyOpened:
    """Open the model that answers where none is named: by the names of the organs, or else by the strokes.

    Args:
        open_model: Opens a model by its name; it is asked for a second one where the first does not see the organs.
        image, scribbles, table, cancel: As in `ReferSession.seen`.

    Raises:
        InputError: The image is not usable.
        Cancelled: The cancel token was set.
    """
    name = default_model(table)
    opened = open_model(name)
    if name == DEFAULT_MODEL and is_broad_one_better(opened.session, image, scribbles, table, cancel):
        return open_model(BROAD_MODEL)
    return opened


def default_model(table: LabelTable) -> str:
    """The name of the model for some organs.

    `abdomen-mr` is the better one for the few organs that it was trained on, and finds hardly any other: where one is
    named, `abdomen-organs` answers, which knows more and learnt to go by strokes. Organs without names, such as
    "label 1", are taken for some of the few; see `is_broad_one_better`.
    """
    models = list_models()
    if DEFAULT_MODEL not in models or BROAD_MODEL not in models:
        return DEFAULT_MODEL
    return BROAD_MODEL if unseen_organs(table, read_card(models[DEFAULT_MODEL]).labels) else DEFAULT_MODEL


def is_broad_one_better(
    session: Seeing, image: Volume, scribbles: Volume, table: LabelTable, cancel: CancelToken | None = None
) -> bool:
    """Whether the strokes show that organs without names are not all of the few of `abdomen-mr`.

    Args:
        session: Of `abdomen-mr`, which `default_model` chose.
        image, scribbles, table, cancel: As in `ReferSession.seen`.
    """
    unnamed = unnamed_organs(table)
    if not unnamed or BROAD_MODEL not in list_models():
        return False
    seen = session.seen(image, scribbles, table, cancel)
    shares = [seen[name] for name in unnamed]
    return fmean(shares) < LEAST_SEEN or min(shares) < LEAST_SEEN_OF_EACH


def choice_told(model: str, table: LabelTable) -> str:
    """What a person is told who named no model."""
    if not unnamed_organs(table):
        why = f"chosen by the names of the organs{_better_alone(table) if model == BROAD_MODEL else ''}"
    elif model != default_model(table):
        why = f"as {DEFAULT_MODEL} does not see some of what was drawn on"
    else:
        why = "and names of the organs might choose a better one"
    return f"No model was named: {model} answers, {why}."


def _better_alone(table: LabelTable) -> str:
    """That some of the organs are answered better without the others; empty where none is."""
    others = {*unnamed_organs(table), *unseen_organs(table, read_card(list_models()[DEFAULT_MODEL]).labels)}
    known = [name for name in table.names if name not in others]
    return f" (for {', '.join(known)} alone {DEFAULT_MODEL} would, mostly better)" if known else ""
