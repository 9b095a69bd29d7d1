"""Organs that a model is asked for and was not trained on."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import list_models, read_card
from CrossModalSegLib.labels import Label, LabelTable
from CrossModalSegLib.terminology import name_words, structure_code

logger = logging.getLogger(__name__)

# What organs are called to which nobody gave a name: in label maps, on the page, and in 3D Slicer.
_NO_NAME = re.compile(r"((label|structure|segment)[ _])?\d+", re.IGNORECASE)


def unseen_organs(asked: LabelTable, known: LabelTable) -> tuple[str, ...]:
    """Names in `asked` that are none of `known`: neither other words for one of them, nor labels with its code.

    Organs without names, such as "label 1", are left out unless their terminology tells what they are.
    """
    found = {None, *map(_identity, known.labels)}
    return tuple(label.name for label in asked.labels if _identity(label) not in found)


def unnamed_organs(table: LabelTable) -> tuple[str, ...]:
    """Names, such as "label 1", of organs of which nobody told what they are."""
    return tuple(label.name for label in table.labels if _identity(label) is None)


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


def _identity(label: Label) -> Hashable | None:
    """What is equal for two labels of one structure; None where nobody told what it is."""
    code = structure_code(label.name, label.terminology)
    if code is None and not _NO_NAME.fullmatch(label.name):
        return name_words(label.name)
    return code
