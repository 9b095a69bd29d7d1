"""`fit` against Grow from seeds on scribbles that experts drew: short-axis MR of the heart (ACDC).

    python Testing/benchmarks/fit_experts.py --data DATA [--patients 1 2 3 4 5 6 7 8 9 10] [--every 1 2] [--fit-alone]

Right ventricle, myocardium and left ventricle at the end of diastole. The experts scribbled every slice, background
included (Valvano et al., "Learning to Segment from Scribbles using Multi-scale Adversarial Attention Gates", IEEE TMI
2021); with --every 2 the strokes of each other slice are taken away. No setting of `fit` was chosen on these cases, and
its prior knows no heart and no MR. The files have no spacing: 1.5 x 1.5 x 10 mm is taken, which is usual for ACDC.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fit_vs_grow_from_seeds import TestCase, add_fit_options, run

from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.volume import Volume

TABLE = LabelTable.from_names(["right ventricle", "myocardium", "left ventricle"])
NOT_DRAWN = 4
AFFINE = np.diag([1.5, 1.5, 10.0, 1.0])


def drawings_of(arguments: argparse.Namespace) -> Iterator[tuple[TestCase, np.ndarray, int]]:
    """The first frame of each patient, at each density."""
    for patient in arguments.patients:
        with np.load(arguments.data / "acdc" / f"patient{patient:03d}_frame01.npz") as arrays:
            image = Volume(arrays["image"].astype(np.float32), AFFINE)
            mask, strokes = image.with_array(arrays["label"]), arrays["scribble"]
        drawn = np.where(strokes == NOT_DRAWN, UNLABELLED, strokes).astype(np.uint8)
        case = TestCase(f"patient{patient:03d}", "acdc", {"mr": image}, mask, TABLE)
        for every in arguments.every:
            is_kept = np.arange(len(drawn)) % every == every // 2
            yield case, np.where(is_kept[:, None, None], drawn, UNLABELLED).astype(np.uint8), every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with acdc")
    parser.add_argument("--patients", nargs="+", type=int, default=list(range(1, 11)))
    parser.add_argument("--every", nargs="+", type=int, default=[1, 2], help="distance of scribbled slices")
    add_fit_options(parser)
    arguments = parser.parse_args()
    rows = run(drawings_of(arguments), arguments)
    for every in arguments.every:
        chosen = [row for row in rows if row.every == every]
        grown = "" if arguments.fit_alone else f"Grow from seeds {np.mean([row.grow_dice for row in chosen]):.3f}, "
        by_class = {name: np.mean([row.fit_dice_by_class[name] for row in chosen]) for name in TABLE.names}
        print(
            f"every {every}: {grown}first answer {np.mean([row.first_dice for row in chosen]):.3f}, fit "
            f"{np.mean([row.fit_dice for row in chosen]):.3f} ("
            + ", ".join(f"{name} {value:.3f}" for name, value in by_class.items())
            + ")"
        )


if __name__ == "__main__":
    main()
