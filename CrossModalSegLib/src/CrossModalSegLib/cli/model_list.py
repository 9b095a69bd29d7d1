"""`crossmodalseg model list`: the models found by name."""

from __future__ import annotations

from dataclasses import dataclass

from CrossModalSegLib.cli.console import say

EXAMPLE = "crossmodalseg model list"


@dataclass(frozen=True)
class Arguments:
    """List the models that ship with the library and those that were installed with `model import`."""


def run(args: Arguments) -> None:  # noqa: ARG001 - every command has the same form
    """Print a table."""
    from CrossModalSegLib.errors import ModelError
    from CrossModalSegLib.inference.model_folder import list_models, models_folder, read_card
    from CrossModalSegLib.metrics.text_table import text_table

    found = list_models()
    rows = []
    for name, folder in found.items():
        try:
            card = read_card(folder)
            rows.append([name, ", ".join(card.modalities), ", ".join(card.labels.names), str(folder)])
        except ModelError as error:
            rows.append([name, "–", f"not usable: {error}", str(folder)])
    if rows:
        say(text_table(["model", "images", "labels", "folder"], rows))
    else:
        say("No model is installed. `crossmodalseg train cmfnet` makes one, `crossmodalseg model import` installs one.")
    say(f"models are installed into {models_folder()}")
