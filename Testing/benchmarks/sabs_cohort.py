"""Cohort files for the abdominal CT cases of the data folder (BTCV, CC BY 4.0).

    python Testing/benchmarks/sabs_cohort.py --data DATA --out FOLDER --cases 03 16 19 24 [--labels word|all]

"all" keeps the 13 organs and links the images in place; "word" writes masks of WORD's seven organs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from CrossModalSegLib.cohort import Case, Cohort, write_cohort
from CrossModalSegLib.io import read_volume, write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention

ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "oesophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
WORD_ORGANS = ("liver", "spleen", "left kidney", "right kidney", "stomach", "gallbladder", "pancreas")


def organ_mask(labels: np.ndarray, organs: Sequence[str] = WORD_ORGANS) -> np.ndarray:
    """These organs, 1, 2, … in their order, of BTCV's 13 (any shape), uint8."""
    lookup = np.zeros(256, np.uint8)
    for value, organ in enumerate(organs, start=1):
        lookup[ORGANS.index(organ) + 1] = value
    return lookup[labels.astype(np.uint8)]


def sabs_cohort(data: Path, out: Path, cases: list[str], labels: str = "all") -> Cohort:
    """Write `out`/cohort.json (and masks, for "word") and return the cohort."""
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for name in cases:
        image, mask = data / "sabs_ct" / f"sabs{name}_ct.nii.gz", data / "sabs_ct" / f"sabs{name}_label.nii.gz"
        if labels == "word":
            dense = read_volume(mask)
            mask = out / f"sabs{name}_mask.nii.gz"
            write_volume(dense.with_array(organ_mask(dense.array)), mask)
        entries.append(Case(f"sabs{name}", {"ct": image.resolve()}, None, mask.resolve(), None))
    table = LabelTable.from_names(WORD_ORGANS if labels == "word" else ORGANS)
    cohort = Cohort(("ct",), table, ScribbleConvention.INTERNAL, tuple(entries), out)
    write_cohort(cohort, out / "cohort.json")
    return cohort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", required=True)
    parser.add_argument("--labels", choices=("word", "all"), default="all")
    arguments = parser.parse_args()
    sabs_cohort(arguments.data, arguments.out, arguments.cases, arguments.labels)


if __name__ == "__main__":
    main()
