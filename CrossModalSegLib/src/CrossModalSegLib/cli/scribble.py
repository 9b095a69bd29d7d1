"""`crossmodalseg scribble`: simulated scribbles from a mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from CrossModalSegLib.cli.console import say

EXAMPLE = "crossmodalseg scribble --mask liver.nii.gz --out scribbles.nii.gz --method contour --every 4 --seed 1"


@dataclass(frozen=True)
class Arguments:
    """Draw scribbles on some axial slices of a segmented mask, as a person would, and scribbles of the background.

    A plain output (.nii.gz, .nrrd, .mha) holds 0 for background scribbles, 1..K for the classes and 255 where nothing
    is drawn; a .seg.nrrd output holds one segment a class and one named "Background".

    Attributes:
        mask: label map with 0 for background and 1..K for the classes, or a .seg.nrrd file.
        out: file to write.
        method: "contour" draws an inner curve and an arc along the outline, "word" the lines of the WORD data set,
            "skeleton" medial lines, "random_walk" a wandering brush, "freeform" free strokes.
        background: "method" draws background as the classes are drawn, "erosion" is the automatic background of the
            CmFNet paper, "none" draws none.
        every: draw on every n-th slice (a class that would be missed gets a slice of its own).
        thickness: width of the lines in pixels; the method's own where not given.
        seed: the same seed draws the same scribbles.
        image: CT or MR on the same grid; background is then drawn in the body only, not in the air around.
        labels: names of the classes 1..K, for .seg.nrrd outputs; segments of a .seg.nrrd mask are found by them.
        overwrite: replace an existing file.
    """

    mask: Path
    out: Path
    method: Literal["contour", "word", "skeleton", "random_walk", "freeform"] = "contour"
    background: Literal["method", "erosion", "none"] = "method"
    every: int = 1
    thickness: int | None = None
    seed: int = 0
    image: Path | None = None
    labels: tuple[str, ...] = ()
    overwrite: bool = False


def run(args: Arguments) -> None:
    """Draw and write the scribbles."""
    from CrossModalSegLib.cli.mask_files import read_mask
    from CrossModalSegLib.cli.numbers import check_seed
    from CrossModalSegLib.cli.outputs import check_new_file
    from CrossModalSegLib.cli.scribble_files import write_scribbles
    from CrossModalSegLib.io import read_volume
    from CrossModalSegLib.scribbles import body_mask, coverage, simulate_scribbles
    from CrossModalSegLib.volume import require_same_geometry

    check_seed(args.seed)
    check_new_file(args.out, args.overwrite, (args.mask, args.image))
    image = None if args.image is None else read_volume(args.image)
    mask, table = read_mask(args.mask, args.labels, image)
    body = None
    if image is not None:
        require_same_geometry(mask=mask, image=image)
        body = body_mask(image.array)
    scribbles = simulate_scribbles(
        mask.array,
        mask.spacing,
        args.method,
        args.seed,
        every=args.every,
        thickness=args.thickness,
        background=args.background,
        body=body,
    )
    write_scribbles(mask.with_array(scribbles), table, args.out)
    shares = coverage(scribbles)
    for value, name in enumerate(("background", *table.names)):
        say(f"{name}: {100 * shares.get(value, 0.0):.3f} % of the voxels")
    say(f"scribbles: {args.out}")
