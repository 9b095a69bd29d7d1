"""`crossmodalseg simulate`: a cohort of simulated CT/MR pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from CrossModalSegLib.cli.console import progress_bar, say

EXAMPLE = "crossmodalseg simulate --out cohort --cases 6 --anatomy head --seed 1"


@dataclass(frozen=True)
class Arguments:
    """Write registered CT/MR pairs of simulated patients, with masks and scribbles, and a cohort.json that lists them.

    The same arguments give the same voxels. Triples are (slices, rows, columns).

    Attributes:
        out: folder to write.
        cases: number of patients.
        anatomy: "head" has a tumour (GTV), "abdomen" has seven organs.
        seed: of all patients.
        shape: voxels; the anatomy's own where not given.
        spacing: voxel size in mm; the anatomy's own where not given.
        rotation: turn of the grid about the patient's x, y and z axis in degrees, an oblique scan.
        contrast: MR sequence.
        field_strength: of the MR scanner, 1.5 or 3 tesla.
        tumour_contrast: "low" makes the tumour much like muscle.
        ct_noise: standard deviation in HU.
        mr_noise: standard deviation relative to a bright tissue.
        bias_field: standard deviation of the logarithm of the MR coil's sensitivity.
        streaks: metal and beam-hardening streaks in CT, 0 (none) to 1 (strong).
        partial_volume: whether voxels at surfaces mix their tissues; "no" gives sharp borders.
        misregistration: by how much the MR is displaced against CT and mask, mm (root mean square).
        scribbles: method; see `crossmodalseg scribble --help`.
        every: scribbles on every n-th slice.
        folds: deal the cases out to this many folds for cross-validation.
        overwrite: replace an existing output folder, all of it.
        quiet: show no progress.
    """

    out: Path
    cases: int
    anatomy: Literal["head", "abdomen"] = "head"
    seed: int = 0
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    contrast: Literal["t1", "t2", "t2_spir", "flair", "in_phase", "opposed_phase", "dwi"] = "t2"
    field_strength: float = 3.0
    tumour_contrast: Literal["normal", "low"] = "normal"
    ct_noise: float = 9.0
    mr_noise: float = 0.03
    bias_field: float = 0.12
    streaks: float = 0.3
    partial_volume: Literal["yes", "no"] = "yes"
    misregistration: float = 0.0
    scribbles: Literal["contour", "word", "skeleton", "random_walk", "freeform"] = "contour"
    every: int = 1
    folds: int | None = None
    overwrite: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Simulate and write."""
    from CrossModalSegLib.cli.numbers import check_seed
    from CrossModalSegLib.cli.outputs import check_new_folder
    from CrossModalSegLib.simulation import SimulationOptions, simulate_cohort

    check_seed(args.seed)
    check_new_folder(args.out, args.overwrite)
    options = SimulationOptions(
        shape=args.shape,
        spacing=args.spacing,
        rotation_deg=args.rotation,
        mr_contrast=args.contrast,
        field_strength=args.field_strength,
        tumour_contrast=args.tumour_contrast,
        ct_noise=args.ct_noise,
        mr_noise=args.mr_noise,
        bias_field=args.bias_field,
        streaks=args.streaks,
        partial_volume=args.partial_volume == "yes",
        misregistration_mm=args.misregistration,
    )
    with progress_bar(args.quiet) as progress:
        cohort = simulate_cohort(
            args.out,
            args.cases,
            args.anatomy,
            args.seed,
            options,
            scribble_method=args.scribbles,
            every=args.every,
            folds=args.folds,
            overwrite=args.overwrite,
            progress=lambda done, total, *_: progress(done, total, "simulating"),
        )
    say(f"cohort: {cohort}")
