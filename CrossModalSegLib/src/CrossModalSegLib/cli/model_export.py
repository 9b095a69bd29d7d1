"""`crossmodalseg model export`: a model as a MONAI bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from CrossModalSegLib.cli.console import say

EXAMPLE = "crossmodalseg model export --model models/liver --out liver_bundle"


@dataclass(frozen=True)
class Arguments:
    """Write a model of `segment` as a MONAI bundle, which `python -m monai.bundle run` runs where CrossModalSegLib is
    installed. Models of `fit` and `refer` need scribbles, too; share their folder, or a zip of it, for `model import`.

    Attributes:
        model: model folder, or name of an installed model.
        out: folder to write.
        overwrite: replace an existing folder, all of it.
    """

    model: str
    out: Path
    overwrite: bool = False


def run(args: Arguments) -> None:
    """Write the bundle."""
    from CrossModalSegLib.cli.outputs import check_new_folder, model_paths

    check_new_folder(args.out, args.overwrite, model_paths(args.model))
    from CrossModalSegLib.inference.bundle import export_bundle

    say(f"MONAI bundle: {export_bundle(args.model, args.out, overwrite=args.overwrite)}")
    say(f"how to run it: {args.out / 'docs' / 'README.md'}")
