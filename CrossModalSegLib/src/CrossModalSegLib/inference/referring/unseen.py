"""Organs that a model is asked for and was not trained on."""

from __future__ import annotations

import logging
import re

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import list_models, read_card
from CrossModalSegLib.labels import LabelTable

logger = logging.getLogger(__name__)

_WORD = re.compile(r"[^\W_]+")
# What organs are called to which nobody gave a name: in label maps, on the page, and in 3D Slicer.
_NO_NAME = re.compile(r"((label|structure|segment)[ _])?\d+", re.IGNORECASE)


def unseen_organs(asked: LabelTable, known: LabelTable) -> tuple[str, ...]:
    """Names in `asked` that are not in `known`, whatever their capitals, the order of their words and signs between.

    Organs without names, such as "label 1", are left out.
    """
    found = {_words(name) for name in known.names}
    return tuple(name for name in asked.names if not _NO_NAME.fullmatch(name) and _words(name) not in found)


def warn_of_unseen(unseen: tuple[str, ...], card: ModelCard, is_tuned: bool) -> None:
    """Tell the person who drew them; such answers of the models that ship were mostly wrong without tuning."""
    if unseen:
        logger.warning(
            "The model %s was not trained on %s, but on %s. What it marks as organs that it was not trained on may be "
            "something else: %slook at every slice.%s",
            card.name,
            ", ".join(unseen),
            ", ".join(card.labels.names),
            "" if is_tuned else "tune it on the strokes, and ",
            "".join(f" The model {name} was trained on all of them." for name in _models_that_know(unseen)[:1]),
        )


def _models_that_know(organs: tuple[str, ...]) -> list[str]:
    """Referring models at hand that were trained on all of these."""
    asked, names = LabelTable.from_names(list(organs)), []
    for name, folder in list_models().items():
        try:
            card = read_card(folder)
        except ModelError:
            continue  # no advice to take a damaged one
        if card.task == "refer" and not unseen_organs(asked, card.labels):
            names.append(name)
    return names


def _words(name: str) -> frozenset[str]:
    return frozenset(_WORD.findall(name.casefold()))
