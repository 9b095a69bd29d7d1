"""Referring segmentation on real MR: scribbles on one volume, organs in another, against three simpler ways.

    python Testing/benchmarks/refer_real.py --data DATA --work FOLDER [--steps 1200] [--models NAME=MODEL …]

Trains, unless their folders exist already: CrossMR, the same network without visual tokens, and a plain 2D U-Net, each
for --steps on T2-SPIR MR of seven CHAOS subjects. Then measures, with scribbles of the contour style on every 4th
slice (--every) of the reference, on subjects that none of them saw:

    same      reference and target are the same T2 volume (05, 13); DSC on its slices without scribbles
    T2->T1    and T1->T2, the one real pair (01), the T1 contrast never seen in training
    subject   the reference is the T2 of another subject (05 -> 13, 13 -> 05)
    LGE->bSSFP  cardiac MR of the same patients (mscmr), experts' scribbles where there are some; never trained on

"copy" takes the whole true mask of the reference through patient space. The U-Net gets no reference. `--models` adds
trained models, such as the one that ships (--models default=abdomen-mr). DSC and NSD at 1 and 2 mm are means over the
volumes of a task; every organ has one column.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from CrossModalSegLib.cohort import Case, Cohort
from CrossModalSegLib.data.referring.slices import SlicePreprocessing, image_slices, slice_frame
from CrossModalSegLib.inference.model_folder import LoadedModel, load_model
from CrossModalSegLib.inference.referring.session import REFERENCE, ReferSession
from CrossModalSegLib.io import read_volume
from CrossModalSegLib.labels import UNLABELLED, LabelTable, ScribbleConvention
from CrossModalSegLib.metrics import evaluate_segmentation
from CrossModalSegLib.progress import TqdmProgress
from CrossModalSegLib.scribbles import simulate_scribbles
from CrossModalSegLib.training.referring.config import preset
from CrossModalSegLib.training.referring.trainer import train_referring
from CrossModalSegLib.volume import Volume, resample_like

ABDOMEN = LabelTable.from_names(["liver", "right kidney", "left kidney", "spleen"])
HEART = LabelTable.from_names(["left ventricle", "myocardium", "right ventricle"])
TRAINED_ON = ("02", "03", "08", "10", "15", "19", "20")
HELD_OUT = ("05", "13")
ABLATIONS = {"CrossMR": None, "no tokens": "no-tokens", "2D U-Net": "unet"}
BSSFP_VALUES = {500: 1, 200: 2, 600: 3}
LGE_VALUES = {3: 1, 2: 2, 1: 3}
Answer = Callable[["Task"], Volume]


@dataclass(frozen=True, eq=False)
class Image:
    """An image and its mask, uint8, on one grid."""

    image: Volume
    mask: Volume


@dataclass(frozen=True, eq=False)
class Task:
    """One reference, one target; `reference.mask` is what simulated scribbles are drawn from."""

    kind: str
    table: LabelTable
    reference: Image
    target: Image
    scribbles: Volume

    @property
    def is_same(self) -> bool:
        """Whether the target is the reference itself."""
        return self.reference is self.target


def chaos(data: Path, name: str, contrast: str) -> Image:
    """A CHAOS volume; the pair of subject 01 has names of its own."""
    folder = data / "chaos_mr"
    image = folder / f"chaos{name}_{contrast}.nii.gz"
    label = folder / (f"chaos{name}_{contrast}_label.nii.gz" if contrast.isupper() else f"chaos{name}_label.nii.gz")
    mask = read_volume(label)
    return Image(read_volume(image), mask.with_array(mask.array.astype(np.uint8)))


def mapped(volume: Volume, values: dict[int, int], fill: int = 0) -> Volume:
    """Label values renamed; all others become `fill`."""
    array = np.full(volume.array.shape, fill, np.uint8)
    for old, new in values.items():
        array[volume.array == old] = new
    return volume.with_array(array)


def drawn(source: Image, arguments: argparse.Namespace) -> Volume:
    """Simulated scribbles on a reference."""
    mask = source.mask
    if arguments.every > 0:
        array = simulate_scribbles(mask.array, mask.spacing, arguments.style, arguments.seed, arguments.every)
        return mask.with_array(array)
    kept = np.zeros_like(mask.array)  # one slice an organ: where it is largest
    for value in np.unique(mask.array[mask.array > 0]):
        k = int((mask.array == value).sum(axis=(1, 2)).argmax())
        kept[k][mask.array[k] == value] = value
    array = simulate_scribbles(kept, mask.spacing, arguments.style, arguments.seed, 1, background="none")
    return mask.with_array(array)


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """All pairs."""
    data = arguments.data
    held_out = {name: chaos(data, name, "t2") for name in HELD_OUT}
    for each in held_out.values():
        yield Task("same", ABDOMEN, each, each, drawn(each, arguments))
    t1, t2 = chaos(data, "01", "T1"), chaos(data, "01", "T2")
    yield Task("T2->T1", ABDOMEN, t2, t1, drawn(t2, arguments))
    yield Task("T1->T2", ABDOMEN, t1, t2, drawn(t1, arguments))
    first, second = held_out.values()
    yield Task("subject", ABDOMEN, first, second, drawn(first, arguments))
    yield Task("subject", ABDOMEN, second, first, drawn(second, arguments))
    yield from hearts(arguments)


def hearts(arguments: argparse.Namespace) -> Iterator[Task]:
    """LGE to bSSFP of the same patients."""
    folder = arguments.data / "mscmr"
    for path in sorted(folder.glob("lge_images_subject*_DE.nii.gz")):
        number = path.name.removeprefix("lge_images_subject").removesuffix("_DE.nii.gz")
        lge = read_volume(path)
        target = Image(
            read_volume(folder / f"bssfp_image_{number}.nii.gz"),
            mapped(read_volume(folder / f"bssfp_label_{number}.nii.gz"), BSSFP_VALUES),
        )
        expert = folder / f"lge_labels_subject{number}_DE_scribble.nii.gz"
        if expert.exists():
            strokes = mapped(read_volume(expert), {0: 0, **LGE_VALUES}, UNLABELLED)
            yield Task(
                "LGE->bSSFP", HEART, Image(lge, lge.with_array(strokes.array)), target, lge.with_array(strokes.array)
            )
        else:
            dense = read_volume(folder / f"lge_labels_subject{number}_DE_manual.nii.gz")
            reference = Image(lge, lge.with_array(mapped(dense, LGE_VALUES).array))
            yield Task("LGE->bSSFP", HEART, reference, target, drawn(reference, arguments))


def refer_with(model: LoadedModel) -> Answer:
    """CrossMR, with or without tokens."""

    def answer(task: Task) -> Volume:
        session = ReferSession(model)
        session.set_reference(task.reference.image)
        if not task.is_same:
            session.add_target("target", task.target.image)
        result = session.refer(task.scribbles, task.table)
        return result.segmentations[REFERENCE if task.is_same else "target"]

    return answer


def segment_with(model: LoadedModel) -> Answer:
    """The 2D U-Net, slice by slice; it knows the abdomen's organs only."""

    @torch.inference_mode()
    def answer(task: Task) -> Volume | None:
        if task.table is not ABDOMEN:
            return None
        image = task.target.image
        prep = model.card.slices or SlicePreprocessing()
        frame = slice_frame(image, prep)
        slices = torch.from_numpy(image_slices(image, frame, prep))[:, None]
        labels = np.concatenate([model.network.eval()(each[None]).argmax(1).numpy() for each in slices])
        return image.with_array(frame.from_canvas(labels.astype(np.uint8), "nearest"))

    return answer


def copied(task: Task) -> Volume | None:
    """The reference's own mask at the same place of the patient; None where volumes share no place or no mask."""
    if task.is_same or (task.reference.mask.array == UNLABELLED).any():
        return None
    return resample_like(task.reference.mask, task.target.image, interpolation="nearest", fill=0)


def measure(task: Task, labels: Volume) -> dict[str, dict[str, float | None]]:
    """DSC and NSD by organ; where the target is the reference, on slices without a stroke of an organ."""
    mask = task.target.mask
    prediction = mask.with_array(labels.array.astype(np.uint8))
    if task.is_same:
        strokes = task.scribbles.array
        free = ~((strokes > 0) & (strokes != UNLABELLED)).any(axis=(1, 2))
        mask = mask.with_array(np.where(free[:, None, None], mask.array, 0).astype(np.uint8))
        prediction = prediction.with_array(np.where(free[:, None, None], prediction.array, 0).astype(np.uint8))
    report = evaluate_segmentation(prediction, mask, task.table, tolerances_mm=(1.0, 2.0))
    return {each.name: {"dsc": each.dsc, "nsd1": each.nsd[0], "nsd2": each.nsd[1]} for each in report.labels}


def trained(name: str, arguments: argparse.Namespace) -> tuple[LoadedModel, float]:
    """The model of a method, and the minutes of its training."""
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
    model = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu")
    return model, model.card.provenance["seconds"] / 60


def mean(values: list[float | None]) -> float:
    """Mean of what is there; NaN for nothing."""
    return float(np.mean([value for value in values if value is not None] or [np.nan]))


def run(name: str, answer: Answer, everything: list[Task]) -> list[dict]:
    """A method on all tasks; one row a kind of task."""
    rows = []
    for kind in dict.fromkeys(task.kind for task in everything):
        found, began = [], time.perf_counter()
        chosen = [task for task in everything if task.kind == kind]
        for task in chosen:
            labels = answer(task)
            if labels is not None:
                found.append(measure(task, labels))
        if not found:
            continue
        seconds = (time.perf_counter() - began) / len(chosen)
        organs = {organ: {key: mean([f[organ][key] for f in found]) for key in found[0][organ]} for organ in found[0]}
        row = {"method": name, "task": kind, "organs": organs, "seconds": round(seconds, 1)}
        row |= {key: mean([organ[key] for organ in organs.values()]) for key in ("dsc", "nsd1", "nsd2")}
        rows.append(row)
        each = " ".join(f"{organ['dsc']:.3f}" for organ in organs.values())
        print(
            f"{name:10s} {kind:11s} DSC {each}  mean {row['dsc']:.3f}  "
            f"NSD {row['nsd1']:.3f} (1 mm) {row['nsd2']:.3f} (2 mm)  {seconds:.1f} s",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200, help="of each training")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--every", type=int, default=4, help="distance of scribbled slices; 0 scribbles one an organ")
    parser.add_argument("--style", default="contour", help="how scribbles are simulated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="*", default=[*ABLATIONS, "copy"])
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME=MODEL")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads, {os.cpu_count()} cores"
    print(f"{device}; scribbles: {arguments.style}, every {arguments.every}", flush=True)
    everything = list(tasks(arguments))
    rows = []
    for method in arguments.methods:
        if method == "copy":
            rows += run("copy", copied, everything)
            continue
        model, minutes = trained(method, arguments)
        print(f"{method}: trained for {minutes:.1f} min", flush=True)
        rows += run(method, (segment_with if method == "2D U-Net" else refer_with)(model), everything)
    for each in arguments.models:
        name, _, path = each.partition("=")
        rows += run(name, refer_with(load_model(path)), everything)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
