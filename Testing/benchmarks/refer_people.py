"""People's scribbles against simulated ones: the liver in CT slices of CHAOS (medscribble), by `refer`.

    python Testing/benchmarks/refer_people.py --data DATA --models default=abdomen-mr

Four slices of four subjects; three people scribbled each of them, and three styles of scribbles are simulated. Only
strokes on the liver are given; those on the background are not. Measured is the DSC of the liver

    itself    in the scribbled slice, on the pixels where none of the six drawings has a stroke on the liver: the same
              pixels for all of them, mostly away from where anyone drew
    subject   in the whole slices of the three other subjects

The spacing of the slices is not known; 1.5 mm is taken, and nothing in mm is measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from referring_scores import Referring, hardware, mean, named_models
from referring_tasks import Image, Strokes, Task

from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.volume import Volume

LIVER = LabelTable.from_names(["liver"])
STYLES = ("contour", "skeleton", "freeform")
AFFINE = np.diag([1.5, 1.5, 5.0, 1.0])


@dataclass(frozen=True, eq=False)
class Drawn:
    """A slice, and all drawings on it.

    Attributes:
        image: One slice with the liver's mask.
        drawings: By who or what drew them, bool (1, j, i): strokes on the liver.
    """

    image: Image
    drawings: dict[str, np.ndarray]

    @property
    def free(self) -> np.ndarray:
        """(1, j, i) bool: pixels without any stroke."""
        return ~np.any(list(self.drawings.values()), axis=0)


def drawn_slices(data: Path, seed: int) -> Iterator[Drawn]:
    """The CHAOS slices of medscribble."""
    for path in sorted((data / "medscribble").glob("CHAOS__*.npz")):
        with np.load(path) as arrays:
            image = Volume(arrays["img"][None].astype(np.float32), AFFINE)
            mask = image.with_array(arrays["seg"][None].astype(np.uint8))
            drawings = {f"person {n}": strokes[:1] for n, strokes in enumerate(arrays["scr"], start=1)}
        for style in STYLES:
            drawings[style] = Strokes(style, every=0, seed=seed).draw(mask).array == 1
        yield Drawn(Image(image, mask), drawings)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """DSC of two masks, of which one is not empty."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def judged(answer: Referring, slices: list[Drawn], who: str) -> dict[str, float]:
    """Means over slices, and over pairs of subjects."""
    itself, others, covered = [], [], []
    for reference in slices:
        strokes = reference.drawings[who]
        scribbles = reference.image.mask.with_array(np.where(strokes, 1, UNLABELLED).astype(np.uint8))
        for target in slices:
            labels = answer(Task("", LIVER, reference.image, target.image, scribbles)).array == 1
            true = target.image.mask.array == 1
            if target is reference:
                itself.append(dice(labels & reference.free, true & reference.free))
                covered.append((strokes & true).sum() / true.sum())
            else:
                others.append(dice(labels, true))
    return {"covered": mean(covered), "itself": mean(itself), "subject": mean(others)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the simulated strokes")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=MODEL")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    slices = list(drawn_slices(arguments.data, arguments.seed))
    left = mean([(each.free & (each.image.mask.array == 1)).sum() / each.image.mask.array.sum() for each in slices])
    print(f"{hardware()}; {len(slices)} slices; no stroke on {left:.0%} of the liver", flush=True)
    rows = []
    for name, model in named_models(arguments.models).items():
        answer = Referring(model)
        for who in slices[0].drawings:
            rows.append({"method": name, "strokes": who, **judged(answer, slices, who)})
            print("{method:12s} {strokes:10s} strokes on {covered:.0%}".format(**rows[-1]), end=" of the liver  ")
            print("DSC itself {itself:.3f}  subject {subject:.3f}".format(**rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
