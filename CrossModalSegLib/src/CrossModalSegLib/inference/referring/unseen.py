"""Organs that a model is asked for and was not trained on."""

from __future__ import annotations

import logging
import re

from CrossModalSegLib.inference.model_card import ModelCard
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
    """Tell the person who drew them; such answers of the model that ships were mostly wrong without tuning."""
    if unseen:
        logger.warning(
            "The model %s was not trained on %s, but on %s. What it marks as organs that it was not trained on may be "
            "something else: %slook at every slice.",
            card.name,
            ", ".join(unseen),
            ", ".join(card.labels.names),
            "" if is_tuned else "tune it on the strokes, and ",
        )


def _words(name: str) -> frozenset[str]:
    return frozenset(_WORD.findall(name.casefold()))
