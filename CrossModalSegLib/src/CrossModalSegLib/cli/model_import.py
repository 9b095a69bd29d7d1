"""`crossmodalseg model import`: install a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from CrossModalSegLib.cli.console import say

EXAMPLE = "crossmodalseg model import --model liver.zip --name liver"


@dataclass(frozen=True)
class Arguments:
    """Install a model from a folder or a zip archive, so that --model finds it by name.

    Only safetensors, JSON and text files are taken, and the model is checked before it appears.

    Attributes:
        model: model folder, or zip archive of one.
        name: name of the installed model; the one in its card where not given.
        into: folder of models; the user's own where not given.
        overwrite: replace an installed model of this name.
    """

    model: Path
    name: str | None = None
    into: Path | None = None
    overwrite: bool = False


def run(args: Arguments) -> None:
    """Check and copy."""
    from CrossModalSegLib.inference.model_folder import read_card
    from CrossModalSegLib.inference.model_import import import_model

    folder = import_model(args.model, args.into, args.name, overwrite=args.overwrite)
    say(f"installed: {folder}")
    task = read_card(folder).task
    if task is not None:
        say(f"use it: crossmodalseg {task} --model {folder.name if args.into is None else folder} …")
