"""Full supervision, partial cross-entropy and CmFNet on abdominal CT: the comparison of the paper's Table II, in small.

    python Testing/benchmarks/weak_supervision.py --data DATA --work FOLDER [--steps 3000] [--mr] [--workers 2]
        [--preset fast] [--spacing 6 4 4] [--patch 16 96 96] [--batch-size 1] [--augmentation default]
        [--also-trained] [--json results.json]

Four cases are trained on (sabs03, 16, 19, 24), two are tested on (sabs00, 07), with WORD's seven organs and scribbles
that are simulated in the style of WORD on every slice. Without --mr the CT goes into both branches of CmFNet; with --mr
a T2 image that is simulated from the CT and its labels stands in for the MR. pCE is partial cross-entropy alone, CmFNet
has partial Dice beside it as in the presets, and FullySup has cross-entropy or, with --full-loss dice_ce, Dice beside
it. All else but the network is the same, and each is trained in one stage. --also-trained tests on the four cases as
well: how much of their organs was learned from their scribbles, which does not depend on how alike patients are. What
is in FOLDER already is not made again: images, scribbles, and models, which are tested.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sabs_cohort import ORGANS, WORD_ORGANS, organ_mask

from CrossModalSegLib.cohort import Case, Cohort, load_case, write_cohort
from CrossModalSegLib.data.preprocess import Preprocessing
from CrossModalSegLib.inference.model_folder import load_model, read_card
from CrossModalSegLib.inference.segment import segment_case
from CrossModalSegLib.io import read_volume, write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.metrics import evaluate_segmentation
from CrossModalSegLib.progress import TqdmProgress
from CrossModalSegLib.scribbles import coverage, simulate_scribbles
from CrossModalSegLib.simulation import mr_from_ct
from CrossModalSegLib.training.config import TrainingConfig, preset
from CrossModalSegLib.training.trainer import train
from CrossModalSegLib.volume import Volume

TRAINED_ON, TESTED_ON = ("03", "16", "19", "24"), ("00", "07")
METHODS = {"FullySup": ("full", "vnet"), "pCE": ("pce", "vnet"), "CmFNet": ("cmfnet", "cmfnet")}


def prepare(data: Path, work: Path, with_mr: bool) -> Cohort:
    """Masks, scribbles and, if wanted, simulated MR of all six cases, in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    cases = []
    for name in TRAINED_ON + TESTED_ON:
        image = (data / "sabs_ct" / f"sabs{name}_ct.nii.gz").resolve()
        dense = read_volume(data / "sabs_ct" / f"sabs{name}_label.nii.gz")
        mask = dense.with_array(organ_mask(dense.array))
        paths = {what: work / f"sabs{name}_{what}.nii.gz" for what in ("mask", "scribbles")}
        if not paths["scribbles"].exists():
            drawn = simulate_scribbles(mask.array, mask.spacing, "word", seed=int(name))
            print(f"sabs{name}: {100 * sum(coverage(drawn).values()):.2f} % scribbled", flush=True)
            write_volume(mask, paths["mask"])
            write_volume(mask.with_array(drawn), paths["scribbles"])
        images = {"ct": image}
        if with_mr:
            images["mr"] = work / f"sabs{name}_mr.nii.gz"
            if not images["mr"].exists():
                write_volume(simulated_mr(read_volume(image), dense, int(name)), images["mr"])
        cases.append(Case(f"sabs{name}", images, paths["scribbles"], paths["mask"], int(name in TESTED_ON)))
    modalities = ("ct", "mr") if with_mr else ("ct",)
    cohort = Cohort(modalities, LabelTable.from_names(WORD_ORGANS), ScribbleConvention.INTERNAL, tuple(cases), work)
    write_cohort(cohort, work / "cohort.json")
    return cohort


def simulated_mr(ct: Volume, dense: Volume, seed: int) -> Volume:
    """A T2 image made from the CT and its 13 organs."""
    labels = dense.with_array(dense.array.astype(np.uint8))
    return mr_from_ct(ct, labels, LabelTable.from_names(ORGANS), seed, "t2")


def configuration(method: str, network: str, arguments: argparse.Namespace) -> TrainingConfig:
    """The preset of the method, for the patch and spacing of this comparison."""
    config = preset(arguments.preset, method)
    if method == "full" and arguments.full_loss == "dice_ce":
        config = replace(config, dice_weight=1.0)
    return replace(
        config,
        network=network,
        network_options={"base_channels": arguments.base_channels, "dropout": 0.1},
        preprocessing=Preprocessing(spacing=tuple(arguments.spacing)),
        patch_size=tuple(arguments.patch),
        batch_size=arguments.batch_size,
        augmentation=arguments.augmentation,
        num_workers=arguments.workers,
        steps=arguments.steps,
        validation_share=0.0,
        scribble_share=0.0,
        second_stage=None,
        seed=arguments.seed,
    )


def loss_name(config: TrainingConfig) -> str:
    """What is minimised, in words."""
    supervision = {"full": "CE", "pce": "pCE", "cmfnet": "hybrid, pCE"}[config.method]
    return f"{supervision} + {config.dice_weight:g} Dice" if config.dice_weight else supervision


def test(folder: Path, cohort: Cohort, fold: int) -> dict[str, list[dict[str, float | None]]]:
    """DSC and ASD of each organ, one entry a case of the fold: 0 was trained on, 1 not."""
    model = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, list[dict[str, float | None]]] = {organ: [] for organ in WORD_ORGANS}
    for case in cohort.cases:
        if case.fold == fold:
            loaded = load_case(case, cohort)
            answer = segment_case(model, loaded).labels
            for label in evaluate_segmentation(answer, loaded.mask, cohort.labels, ()).labels:
                results[label.name].append({"dsc": label.dsc, "asd_mm": label.asd_mm})
    return results


def mean(values: list[float | None]) -> float:
    """Mean of what is there; NaN for nothing."""
    return float(np.mean([value for value in values if value is not None] or [np.nan]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--preset", choices=["fast", "default"], default="fast")
    spacing = "mm (k, j, i) of the working grid; coarse, so that a patch holds both sides of the body on a CPU, too"
    parser.add_argument("--spacing", type=float, nargs=3, default=[6.0, 4.0, 4.0], help=spacing)
    parser.add_argument("--patch", type=int, nargs=3, default=[16, 96, 96], help="voxels (k, j, i)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--augmentation", default="default", choices=["none", "light", "default"])
    parser.add_argument("--workers", type=int, help="processes that prepare patches")
    parser.add_argument("--base-channels", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--full-loss", choices=["ce", "dice_ce"], default="ce", help="of FullySup")
    parser.add_argument("--mr", action="store_true", help="add the simulated MR")
    parser.add_argument("--also-trained", action="store_true", help="test on the cases that were trained on, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads, {os.cpu_count()} cores"
    print(f"{device}; {arguments.steps} steps of {arguments.batch_size} patches {arguments.patch}", flush=True)
    cohort = prepare(arguments.data, arguments.work, arguments.mr)
    training = replace(cohort, cases=tuple(case for case in cohort.cases if case.fold == 0))
    training = replace(training, cases=tuple(replace(case, fold=None) for case in training.cases))
    rows = []
    for name in arguments.methods:
        config = configuration(*METHODS[name], arguments)
        print(f"{name}: {loss_name(config)}", flush=True)
        folder = arguments.work / f"model-{name}{'-mr' if arguments.mr else ''}-{arguments.steps}"
        if not folder.exists():
            with TqdmProgress() as progress:
                train(training, folder, config, progress=progress)
        minutes = read_card(folder).provenance["seconds"] / 60
        for fold in (1, 0) if arguments.also_trained else (1,):
            organs = test(folder, cohort, fold)
            dsc = {organ: mean([case["dsc"] for case in cases]) for organ, cases in organs.items()}
            asd = {organ: mean([case["asd_mm"] for case in cases]) for organ, cases in organs.items()}
            tested = "other cases" if fold else "trained cases"
            row = {"method": name, "loss": loss_name(config), "minutes": round(minutes, 1), "tested_on": tested}
            rows.append(row | {"dsc": dsc, "asd_mm": asd})
            print(f"{name:9s} {tested:13s} DSC " + " ".join(f"{value:.3f}" for value in dsc.values()), end="  ")
            means = f"mean {mean([*dsc.values()]):.3f}  ASD {mean([*asd.values()]):.1f} mm"
            print(f"{means}  {minutes:.1f} min", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
