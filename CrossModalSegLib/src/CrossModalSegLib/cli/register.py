"""`crossmodalseg register`: one image onto another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from CrossModalSegLib.cli.console import progress_bar, say

EXAMPLE = "crossmodalseg register --fixed ct.nii.gz --moving mr.nii.gz --out mr_on_ct.nii.gz --transform mr_to_ct.tfm"


@dataclass(frozen=True)
class Arguments:
    """Align an image of the same patient to another one by mutual information, and sample it on the other's grid.

    Attributes:
        fixed: image that stays where it is.
        moving: image that is aligned.
        out: aligned image, on the grid of the fixed one.
        transform: file for the transform (.tfm, .txt, .h5, .hdf5), which 3D Slicer reads.
        kind: "rigid", "affine", or "bspline" for a free deformation after a rigid alignment.
        start: "identity" trusts the files' positions, "geometry" and "moments" lay middle on middle or centre of mass
            on centre of mass, "auto" takes the best of them and of a search over shifts and turns up to 45 degrees.
        seed: of the sampled points.
        threads: for the metric; fewer may give a slightly different result.
        overwrite: replace existing files.
        quiet: show no progress.
    """

    fixed: Path
    moving: Path
    out: Path
    transform: Path | None = None
    kind: Literal["rigid", "affine", "bspline"] = "rigid"
    start: Literal["auto", "identity", "geometry", "moments"] = "auto"
    seed: int = 0
    threads: int | None = None
    overwrite: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Register and write."""
    from CrossModalSegLib.cli.numbers import check_seed
    from CrossModalSegLib.cli.outputs import check_format, check_new_file
    from CrossModalSegLib.io import read_volume, write_volume
    from CrossModalSegLib.registration import check_transform_suffix, register, write_transform

    check_seed(args.seed)
    for path in filter(None, (args.out, args.transform)):
        check_new_file(path, args.overwrite, (args.fixed, args.moving))
    if args.transform is not None:
        check_transform_suffix(args.transform)
    fixed, moving = read_volume(args.fixed), read_volume(args.moving)
    check_format(args.out, fixed)
    with progress_bar(args.quiet) as progress:
        found = register(
            fixed, moving, args.kind, initial=args.start, seed=args.seed, threads=args.threads, progress=progress
        )
    write_volume(found.resampled, args.out)
    if args.transform is not None:
        write_transform(found.transform, args.transform)
    say(f"mutual information: {found.metric:.3f}, before {found.metric_before:.3f} (greater is better)")
    say(f"start: {found.start}; steps: {found.iterations}")
    say(f"aligned image: {args.out}")
    if args.transform is not None:
        say(f"transform: {args.transform}")
