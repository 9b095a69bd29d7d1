"""`crossmodalseg simulate-mr`: an aligned MR from a real CT and its labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from CrossModalSegLib.cli.console import say

EXAMPLE = "crossmodalseg simulate-mr --ct ct.nii.gz --mask organs.nii.gz --labels liver spleen --out mr.nii.gz"


@dataclass(frozen=True)
class Arguments:
    """Simulate an MR on the grid of a real CT, from CT numbers and the labelled organs.

    Attributes:
        ct: CT image.
        mask: label map on the same grid, 1..K; a .seg.nrrd file brings its own names.
        out: image to write.
        labels: names of the classes 1..K; organs are known by their English names. Segments of a .seg.nrrd file are
            found by them.
        contrast: MR sequence.
        seed: the same seed gives the same image.
        overwrite: replace an existing file.
    """

    ct: Path
    mask: Path
    out: Path
    labels: tuple[str, ...] = ()
    contrast: Literal["t1", "t2", "t2_spir", "flair", "in_phase", "opposed_phase", "dwi"] = "t2"
    seed: int = 0
    overwrite: bool = False


def run(args: Arguments) -> None:
    """Simulate and write."""
    from CrossModalSegLib.cli.mask_files import read_mask
    from CrossModalSegLib.cli.numbers import check_seed
    from CrossModalSegLib.cli.outputs import check_format, check_new_file
    from CrossModalSegLib.io import read_volume, write_volume
    from CrossModalSegLib.simulation.real_ct import mr_from_ct

    check_seed(args.seed)
    check_new_file(args.out, args.overwrite, (args.ct, args.mask))
    ct = read_volume(args.ct)
    check_format(args.out, ct)
    mask, table = read_mask(args.mask, args.labels, ct)
    write_volume(mr_from_ct(ct, mask, table, args.seed, args.contrast), args.out)
    say(f"MR: {args.out}")
