"""`fit` against Slicer's "Grow from seeds" on the same scribbles, in one run.

    python Testing/benchmarks/fit_vs_grow_from_seeds.py --data DATA [--cases sabs00 sabs07 chaos05 chaos13 tumours]
        [--every 3 6 12] [--seconds 120] [--seed 0] [--method contour] [--json results.json] [--fit-alone]

Scribbles are simulated from the masks: on every 3rd, 6th and 12th axial slice of the CT cases, every 2nd, 4th and 8th
of the MR cases (their slices are 2.5 times as thick), every 3rd of the simulated low-contrast tumours (CT and MR). On
these, Grow from seeds is run on either image, and the better result counts. The prior that `fit` starts from must not
have been trained on a case it is judged on: the one that ships was trained on sabs03, 16, 19 and 24. --fit-alone leaves
Grow from seeds out, for machines without VTK; the scribbles stay the same.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sabs_cohort import WORD_ORGANS, organ_mask

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.fitting.fit_case import DEFAULT_PRIOR, FitConfig, fit_case
from CrossModalSegLib.fitting.search import FIRST_ANSWER
from CrossModalSegLib.io import read_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scribbles import simulate_scribbles
from CrossModalSegLib.simulation import SimulationOptions, simulate_case
from CrossModalSegLib.volume import Volume

CHAOS_ORGANS = ("liver", "right kidney", "left kidney", "spleen")
DENSITIES = {"sabs": (3, 6, 12), "chaos": (2, 4, 8), "tumour": (3,)}
TUMOUR_SEEDS = (100, 101, 102, 103)


@dataclass(frozen=True, eq=False)
class TestCase:
    """Images and the mask that scribbles are drawn from and answers are measured with."""

    name: str
    kind: str
    images: dict[str, Volume]
    mask: Volume
    table: LabelTable


@dataclass(frozen=True)
class Row:
    """One line of the table; Dice is the mean over the classes, processor time that of all threads."""

    case: str
    every: int
    scribbled_percent: float
    grow_dice: float | None
    grow_seconds: float | None
    first_dice: float
    first_seconds: float
    first_processor_seconds: float
    fit_dice: float
    fit_seconds: float
    steps: int
    fit_dice_by_class: dict[str, float]


def test_cases(names: list[str], data: Path) -> Iterator[TestCase]:
    """The cases by name; "tumours" stands for the simulated ones."""
    for name in names:
        if name == "tumours":
            for seed in TUMOUR_SEEDS:
                made = simulate_case("head", seed, SimulationOptions(tumour_contrast="low"))
                yield TestCase(f"tumour{seed}", "tumour", {"ct": made.ct, "mr": made.mr}, made.mask, made.labels)
        elif name.startswith("sabs"):
            mask = read_volume(data / "sabs_ct" / f"{name}_label.nii.gz")
            image = read_volume(data / "sabs_ct" / f"{name}_ct.nii.gz")
            mask = mask.with_array(organ_mask(mask.array))
            yield TestCase(name, "sabs", {"ct": image}, mask, LabelTable.from_names(WORD_ORGANS))
        else:
            mask = read_volume(data / "chaos_mr" / f"{name}_label.nii.gz")
            image = read_volume(data / "chaos_mr" / f"{name}_t2.nii.gz")
            mask = mask.with_array(mask.array.astype(np.uint8))
            yield TestCase(name, "chaos", {"mr": image}, mask, LabelTable.from_names(CHAOS_ORGANS))


def dice(labels: np.ndarray, mask: np.ndarray, value: int) -> float:
    """Dice of one class of two label maps (k, j, i)."""
    a, b = labels == value, mask == value
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def mean_dice(labels: np.ndarray, case: TestCase) -> float:
    """Mean Dice over the classes."""
    return float(np.mean([dice(labels, case.mask.array, label.value) for label in case.table.labels]))


def grow(case: TestCase, drawn: np.ndarray) -> tuple[float, float]:
    """Mean Dice of Grow from seeds on the image that suits it better, and its seconds."""
    from grow_from_seeds import grow_from_seeds  # here: it takes VTK

    began = time.perf_counter()
    grown = [grow_from_seeds(image.array, drawn, image.spacing) for image in case.images.values()]
    seconds = (time.perf_counter() - began) / len(grown)
    return round(max(mean_dice(labels, case) for labels in grown), 4), round(seconds, 1)


def compare(case: TestCase, drawn: np.ndarray, every: int, arguments: argparse.Namespace) -> Row:
    """Both methods on the same scribbles (k, j, i), internal convention, on every n-th slice."""
    grow_dice, grow_seconds = (None, None) if arguments.fit_alone else grow(case, drawn)
    loaded = LoadedCase(case.name, case.images, case.mask.with_array(drawn), None)
    answers: list[tuple[str, float, float, float]] = []
    processor_began = time.process_time()

    def note(labels: Volume, stage) -> None:
        processor_seconds = time.process_time() - processor_began
        answers.append((stage.name, stage.seconds, processor_seconds, mean_dice(labels.array, case)))

    config = FitConfig(seconds=arguments.seconds, preview_every=arguments.preview_every, seed=arguments.seed)
    began = time.perf_counter()
    result = fit_case(loaded, case.table, config, prior=arguments.prior, device=arguments.device, on_preview=note)
    fit_seconds = time.perf_counter() - began
    first = next(answer for answer in answers if answer[0] == FIRST_ANSWER)
    by_class = {
        label.name: round(dice(result.labels.array, case.mask.array, label.value), 4) for label in case.table.labels
    }
    return Row(
        case=case.name,
        every=every,
        scribbled_percent=round(100 * float((drawn != 255).mean()), 3),
        grow_dice=grow_dice,
        grow_seconds=grow_seconds,
        first_dice=round(first[3], 4),
        first_seconds=round(first[1], 1),
        first_processor_seconds=round(first[2], 1),
        fit_dice=round(mean_dice(result.labels.array, case), 4),
        fit_seconds=round(fit_seconds, 1),
        steps=len(result.history),
        fit_dice_by_class=by_class,
    )


def line(row: Row) -> str:
    """The row as text."""
    grown = " " * 13 if row.grow_dice is None else f"{row.grow_dice:.3f} {row.grow_seconds:5.1f} s"
    first = f"{row.first_dice:.3f} {row.first_seconds:5.1f} s {row.first_processor_seconds:5.1f} s"
    gain = "" if row.grow_dice is None else f"  {100 * (row.fit_dice - row.grow_dice):+.1f}"
    return (
        f"{row.case:11s} {row.every:5d}  {row.scribbled_percent:7.2f} %  {grown}  "
        f"{first}  {row.fit_dice:.3f} {row.fit_seconds:5.1f} s{gain}"
    )


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Options of `run`."""
    parser.add_argument("--seconds", type=float, default=120.0, help="most time for tuning")
    parser.add_argument("--preview-every", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prior", default=DEFAULT_PRIOR)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fit-alone", action="store_true", help="leave Grow from seeds out")
    parser.add_argument("--json", type=Path, help="where to write the rows")


def run(drawings: Iterable[tuple[TestCase, np.ndarray, int]], arguments: argparse.Namespace) -> list[Row]:
    """Print a row for each (case, scribbles, every n-th slice)."""
    print(f"device {arguments.device}, {torch.get_num_threads()} threads, {os.cpu_count()} cores", flush=True)
    print("case        every  scribbled  grow           first answer, processor  fit            gain", flush=True)
    rows = []
    for case, drawn, every in drawings:
        rows.append(compare(case, drawn, every, arguments))
        print(line(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    return rows


def drawings_of(arguments: argparse.Namespace) -> Iterator[tuple[TestCase, np.ndarray, int]]:
    """The cases with simulated scribbles, at each density."""
    for case in test_cases(arguments.cases, arguments.data):
        for every in arguments.every or DENSITIES[case.kind]:
            drawn = simulate_scribbles(case.mask.array, case.mask.spacing, arguments.method, arguments.seed, every)
            yield case, drawn, every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sabs_ct and chaos_mr")
    parser.add_argument("--cases", nargs="+", default=["sabs00", "sabs07", "chaos05", "chaos13", "tumours"])
    parser.add_argument("--every", nargs="+", type=int, help="distance of scribbled slices, else as above")
    parser.add_argument("--method", default="contour", help="how scribbles are simulated")
    add_fit_options(parser)
    arguments = parser.parse_args()
    run(drawings_of(arguments), arguments)


if __name__ == "__main__":
    main()
