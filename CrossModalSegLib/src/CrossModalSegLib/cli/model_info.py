"""`crossmodalseg model info`: the card of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from CrossModalSegLib.cli.console import say

if TYPE_CHECKING:
    from CrossModalSegLib.inference.model_card import ModelCard

EXAMPLE = "crossmodalseg model info --model models/liver"


@dataclass(frozen=True)
class Arguments:
    """Show what a model segments, in which images, how it was trained and under which licence; its weights are checked.

    Attributes:
        model: model folder, or name of an installed model.
        json: print the whole card as JSON.
    """

    model: str
    json: bool = False


def run(args: Arguments) -> None:
    """Load the model, so that damage shows, and print its card."""
    import json

    from CrossModalSegLib.inference.model_folder import find_model, load_model

    model = load_model(args.model)
    if args.json:
        say(json.dumps(model.card.to_json(), indent=2, ensure_ascii=False))
        return
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    for what, text in (("folder", str(find_model(args.model))), *_lines(model.card, parameters)):
        say(f"{what:<14} {text}")


def _lines(card: ModelCard, parameters: int) -> list[tuple[str, str]]:
    import json

    spacing = card.preprocessing.spacing
    lines = [
        ("name", card.name),
        ("network", f"{card.architecture}, {parameters / 1e6:.2f} million parameters"),
        ("images", ", ".join(card.modalities)),
        ("labels", ", ".join(f"{label.value} {label.name}" for label in card.labels.labels)),
        ("spacing (kji)", "the image's own" if spacing is None else " × ".join(f"{mm:g}" for mm in spacing) + " mm"),
        ("seed", "–" if card.seed is None else str(card.seed)),
        ("licence", card.licence or "not stated"),
    ]
    for what, content in (("metrics", card.metrics), ("provenance", card.provenance), ("versions", card.versions)):
        lines += [(what, f"{key}: {json.dumps(value, ensure_ascii=False)}") for key, value in content.items()]
    return lines
