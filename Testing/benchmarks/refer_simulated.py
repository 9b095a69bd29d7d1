"""Referring segmentation on simulated contrasts: scribbles on T2-SPIR, organs in four other contrasts and the real CT.

    python Testing/benchmarks/refer_simulated.py --data DATA --work FOLDER --models default=abdomen-mr
        [--organs NAME …] [--tune SECONDS]

The cases (sabs00 and sabs07) are real CT that the model that ships was not trained on; the five MR contrasts are
simulated from them and their labels, as in training, so this says what a model does on its own kind of images, not on
real MR. "Copy" would be perfect here, as all contrasts share a grid. DSC, and NSD at 2 mm, of liver, right and left
kidney and spleen, or of others of BTCV's 13 organs; --tune lets the model learn from the strokes of each task first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from referring_scores import Referring, hardware, named_models, run
from referring_tasks import ABDOMEN, Image, Strokes, Task
from sabs_cohort import ORGANS
from sabs_modalities import sabs_modalities

from CrossModalSegLib.io import read_volume

REFERENCE = "t2_spir"


def simulated_tasks(
    data: Path, work: Path, cases: Sequence[str], organs: Sequence[str], strokes: Strokes
) -> Iterator[Task]:
    """From one contrast to each other image of the same case."""
    cohort = sabs_modalities(data, work, list(cases), organs=organs)
    for case in cohort.cases:
        mask = read_volume(case.mask)
        images = {name: Image(read_volume(path), mask) for name, path in case.images.items()}
        scribbles = strokes.draw(mask)
        for name, target in images.items():
            if name != REFERENCE:
                kind = "real CT" if name == "ct" else f"simulated {name}"
                yield Task(f"{REFERENCE}->{kind}", cohort.labels, images[REFERENCE], target, scribbles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where the simulated images are kept")
    parser.add_argument("--cases", nargs="+", default=["00", "07"])
    parser.add_argument("--organs", nargs="+", choices=ORGANS, default=ABDOMEN.names)
    parser.add_argument("--tune", type=float, default=0.0, metavar="SECONDS", help="of learning from the strokes")
    parser.add_argument("--every", type=int, default=12, help="distance of scribbled slices; 0 scribbles one an organ")
    parser.add_argument("--style", default="contour", help="how scribbles are simulated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=MODEL")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    strokes = Strokes(arguments.style, arguments.every, seed=arguments.seed)
    print(f"{hardware()}; simulated MR; scribbles on simulated {REFERENCE}: {strokes}", flush=True)
    tasks = list(simulated_tasks(arguments.data, arguments.work, arguments.cases, arguments.organs, strokes))
    models = named_models(arguments.models)
    rows = [row for name, model in models.items() for row in run(name, Referring(model, arguments.tune), tasks)]
    if arguments.json:
        arguments.json.write_text(json.dumps([row.to_json() for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
