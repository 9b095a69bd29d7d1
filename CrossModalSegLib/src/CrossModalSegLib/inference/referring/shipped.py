"""Which of the models that ship answers where none is named."""

from __future__ import annotations

from CrossModalSegLib.inference.model_folder import list_models, read_card
from CrossModalSegLib.inference.referring.unseen import unseen_organs
from CrossModalSegLib.labels import LabelTable

DEFAULT_MODEL = "abdomen-mr"
BROAD_MODEL = "abdomen-organs"


def default_model(table: LabelTable) -> str:
    """The name of the model for some organs.

    `abdomen-mr` is the better one for the few organs that it was trained on, and finds hardly any other: where one is
    named, `abdomen-organs` answers, which knows more and learnt to go by strokes. Organs without names, such as
    "label 1", are taken for some of the few.
    """
    models = list_models()
    if DEFAULT_MODEL not in models or BROAD_MODEL not in models:
        return DEFAULT_MODEL
    return BROAD_MODEL if unseen_organs(table, read_card(models[DEFAULT_MODEL]).labels) else DEFAULT_MODEL


def choice_told(model: str) -> str:
    """What a person is told who named no model."""
    return f"No model was named: {model} answers, chosen by the names of the organs."
