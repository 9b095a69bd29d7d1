"""A cohort of five simulated MR contrasts and the CT they are made from, for each abdominal CT case (BTCV, CC BY 4.0).

    python Testing/benchmarks/sabs_modalities.py --data DATA --out FOLDER --cases 03 16 19 24
        [--seed N] [--organs NAME …] [--structures]

All images of a case share its grid; masks hold the 13 organs, or those that are named, in that order. Only the CT and
the labels are real. `--structures` writes FOLDER/structures_CASE.json as well, a cohort of the structures of each case
that nobody has labelled (see unnamed_structures.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sabs_cohort import ORGANS, organ_mask, sabs_cohort
from unnamed_structures import unnamed_structures

from CrossModalSegLib.cohort import Cohort, write_cohort
from CrossModalSegLib.io import read_volume, write_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.simulation.real_ct import mr_from_ct

CONTRASTS = ("t1", "t2_spir", "dwi", "in_phase", "opposed_phase")


def sabs_modalities(data: Path, out: Path, cases: list[str], seed: int = 0, organs: Sequence[str] = ORGANS) -> Cohort:
    """Write the simulated images, masks of these organs, and `out`/cohort.json, and return the cohort."""
    cohort = sabs_cohort(data, out, cases)
    table = LabelTable.from_names(ORGANS)
    entries = []
    for index, case in enumerate(cohort.cases):
        ct, mask = read_volume(case.images["ct"]), read_volume(case.mask)
        images = dict(case.images)
        for number, contrast in enumerate(CONTRASTS):
            path = out / f"{case.name}_{contrast}.nii.gz"
            if not path.exists():
                write_volume(mr_from_ct(ct, mask, table, seed + len(CONTRASTS) * index + number, contrast), path)
            images[contrast] = path.resolve()
        path = out / f"{case.name}_mask.nii.gz"
        write_volume(mask.with_array(organ_mask(mask.array, organs)), path)
        entries.append(replace(case, images=images, mask=path.resolve()))
    labels = LabelTable.from_names(organs)
    cohort = replace(cohort, modalities=("ct", *CONTRASTS), labels=labels, cases=tuple(entries))
    write_cohort(cohort, out / "cohort.json")
    return cohort


def structure_cohorts(cohort: Cohort, out: Path) -> list[Path]:
    """Write `out`/structures_CASE.json for each case of `sabs_modalities`, with the same images."""
    paths = []
    for case in cohort.cases:
        ct, organs = read_volume(case.images["ct"]), read_volume(case.mask)
        structures = unnamed_structures(ct, organs.array)
        mask = out / f"{case.name}_structures.nii.gz"
        write_volume(organs.with_array(structures), mask)
        labels = LabelTable.from_names([f"{case.name} structure {number + 1}" for number in range(structures.max())])
        paths.append(out / f"structures_{case.name}.json")
        write_cohort(replace(cohort, labels=labels, cases=(replace(case, mask=mask.resolve()),)), paths[-1])
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--organs", nargs="+", choices=ORGANS, default=ORGANS, help="that the masks hold")
    parser.add_argument("--structures", action="store_true", help="also cohorts of what nobody has labelled")
    arguments = parser.parse_args()
    cohort = sabs_modalities(arguments.data, arguments.out, arguments.cases, arguments.seed, arguments.organs)
    if arguments.structures:
        structure_cohorts(cohort, arguments.out)


if __name__ == "__main__":
    main()
