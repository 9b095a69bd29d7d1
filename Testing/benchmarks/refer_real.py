"""Referring segmentation on real MR: scribbles on one volume, organs in another, against three simpler ways.

    python Testing/benchmarks/refer_real.py --data DATA --work FOLDER [--steps 1200] [--models NAME=MODEL …]

Trains, unless their folders exist already: CrossMR, the same network without visual tokens, and a plain 2D U-Net, each
for --steps on T2-SPIR MR of seven CHAOS subjects. Then measures, with scribbles of the contour style on every 4th
slice (--every) of the reference, on subjects that none of them saw:

    same      reference and target are the same T2 volume (05, 13); measured on its slices without scribbles
    T2->T1    and T1->T2, the one real pair (01), the T1 contrast never seen in training
    subject   the reference is the T2 of another subject (05 -> 13, 13 -> 05)
    LGE->bSSFP  cardiac MR of the same patients (mscmr), experts' scribbles where there are some; never trained on

"copy" takes the whole true mask of the reference through patient space. The U-Net gets no reference. `--models` adds
trained models, such as the one that ships (--models default=abdomen-mr), which --tune lets learn from the strokes of
each task for some seconds first. DSC and NSD at 1 and 2 mm are means over the volumes of a task; every organ has one
column. "Absent but marked" is the share of slices without an organ in which the answer has 50 voxels of it or more,
"there but missed" the share of slices with it in which the answer has none.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from referring_scores import Referring, Row, copied, hardware, named_models, run, segment_with
from referring_tasks import ABDOMEN, Strokes, chaos_tasks, heart_tasks

from CrossModalSegLib.cohort import Case, Cohort
from CrossModalSegLib.inference.model_folder import LoadedModel
from CrossModalSegLib.labels import ScribbleConvention
from CrossModalSegLib.progress import TqdmProgress
from CrossModalSegLib.training.referring.config import preset
from CrossModalSegLib.training.referring.trainer import train_referring

TRAINED_ON = ("02", "03", "08", "10", "15", "19", "20")
ABLATIONS = {"CrossMR": None, "no tokens": "no-tokens", "2D U-Net": "unet"}


def trained(name: str, arguments: argparse.Namespace) -> LoadedModel:
    """The model of a method."""
    folder = arguments.work / f"{name.replace(' ', '-')}-{arguments.steps}"
    if not folder.exists():
        files = arguments.data / "chaos_mr"
        cases = [
            Case(f"chaos{n}", {"t2": files / f"chaos{n}_t2.nii.gz"}, mask=files / f"chaos{n}_label.nii.gz")
            for n in TRAINED_ON
        ]
        cohort = Cohort(("t2",), ABDOMEN, ScribbleConvention.INTERNAL, tuple(cases), files)
        config = replace(preset("default", ABLATIONS[name]), steps=arguments.steps, validation_share=0.0)
        config = replace(
            config,
            network=replace(config.network, image_size=arguments.image_size),
            preprocessing=replace(config.preprocessing, image_size=arguments.image_size),
        )
        with TqdmProgress() as progress:
            train_referring([cohort], folder, config, progress=progress)
    return named_models([f"{name}={folder}"])[name]


def rows_of(arguments: argparse.Namespace) -> list[Row]:
    """All methods and models on all tasks."""
    strokes = Strokes(arguments.style, arguments.every, arguments.slices_each, arguments.seed)
    tasks = [*chaos_tasks(arguments.data, strokes), *heart_tasks(arguments.data, strokes)]
    rows: list[Row] = []
    for method in arguments.methods:
        if method == "copy":
            rows += run(method, copied, tasks)
            continue
        model = trained(method, arguments)
        print(f"{method}: trained for {model.card.provenance['seconds'] / 60:.1f} min", flush=True)
        rows += run(method, (segment_with if method == "2D U-Net" else Referring)(model), tasks)
    for name, model in named_models(arguments.models).items():
        rows += run(name, Referring(model, arguments.tune), tasks)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where the trained models are kept")
    parser.add_argument("--steps", type=int, default=1200, help="of each training")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--every", type=int, default=4, help="distance of scribbled slices; 0 scribbles a few an organ")
    parser.add_argument("--slices-each", type=int, default=1, help="with --every 0: scribbled slices of each organ")
    parser.add_argument("--style", default="contour", help="how scribbles are simulated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="*", default=[*ABLATIONS, "copy"])
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME=MODEL")
    parser.add_argument("--tune", type=float, default=0.0, help="seconds of tuning the --models on the strokes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{hardware()}; scribbles: {arguments.style}, every {arguments.every}", flush=True)
    rows = rows_of(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps([row.to_json() for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
