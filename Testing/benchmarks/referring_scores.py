"""Answers of models to tasks of `refer`, and what they are worth: DSC, NSD, and organs where there are none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from referring_tasks import ABDOMEN, Image, Task

from CrossModalSegLib.data.referring.slices import SlicePreprocessing, image_slices, slice_frame
from CrossModalSegLib.inference.model_folder import LoadedModel, load_model
from CrossModalSegLib.inference.referring.session import REFERENCE, ReferSession
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.metrics import evaluate_segmentation
from CrossModalSegLib.volume import Volume, resample_like

# From so many voxels on, a slice counts as marked.
MARKED = 50
# None where a method has no answer to a task.
Answer = Callable[[Task], Volume | None]


class Referring:
    """CrossMR's answers, tuned on the strokes for some seconds; features are kept from one task to the next."""

    def __init__(self, model: LoadedModel, tune_seconds: float = 0.0) -> None:
        self._session, self._tune_seconds = ReferSession(model), tune_seconds
        self._reference: Image | None = None
        self._target: Image | None = None

    def __call__(self, task: Task) -> Volume:
        """The labels of the target."""
        target = None if task.is_same else task.target
        if self._target is not None and target is not self._target:
            self._session.remove_target("target")
        if task.reference is not self._reference:
            self._session.set_reference(task.reference.image)
        if target is not None and target is not self._target:
            self._session.add_target("target", target.image)
        self._reference, self._target = task.reference, target
        result = self._session.refer(task.scribbles, task.table, tune_seconds=self._tune_seconds)
        return result.segmentations[REFERENCE if task.is_same else "target"]


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


@dataclass(frozen=True)
class Absence:
    """Slices and organs, counted in pairs.

    Attributes:
        absent: The organ is not in the slice.
        marked: Of these, how many answers have MARKED voxels of it or more.
        present: The organ is in the slice.
        missed: Of these, how many answers have no voxel of it.
    """

    absent: int = 0
    marked: int = 0
    present: int = 0
    missed: int = 0

    def __add__(self, other: Absence) -> Absence:
        return Absence(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def marked_share(self) -> float:
        """Of the absent ones; NaN where there are none."""
        return self.marked / self.absent if self.absent else float("nan")

    @property
    def missed_share(self) -> float:
        """Of the present ones; NaN where there are none."""
        return self.missed / self.present if self.present else float("nan")


def absence(prediction: np.ndarray, mask: np.ndarray, table: LabelTable) -> Absence:
    """The counts for slices (S, rows, columns)."""
    values = [label.value for label in table.labels]
    found, true = (np.stack([(each == value).sum(axis=(1, 2)) for value in values]) for each in (prediction, mask))
    absent = true == 0
    return Absence(
        int(absent.sum()),
        int((absent & (found >= MARKED)).sum()),
        int((~absent).sum()),
        int((~absent & (found == 0)).sum()),
    )


@dataclass(frozen=True)
class Score:
    """What one answer is worth, by organ; None where neither it nor the mask has the organ."""

    dsc: dict[str, float | None]
    nsd1: dict[str, float | None]
    nsd2: dict[str, float | None]
    absence: Absence


def measure(task: Task, labels: Volume) -> Score:
    """The score of a target; where that is the reference, of its slices without a stroke of an organ."""
    frame = slice_frame(task.target.image, SlicePreprocessing())
    mask = task.target.mask
    slices = [frame.to_axial(each.array.astype(np.uint8)) for each in (labels, mask)]
    if task.is_same:
        strokes = frame.to_axial(task.scribbles.array)
        free = ~((strokes > 0) & (strokes != UNLABELLED)).any(axis=(1, 2))
        slices = [np.where(free[:, None, None], each, 0) for each in slices]
    prediction, truth = (mask.with_array(np.ascontiguousarray(frame.from_axial(each))) for each in slices)
    report = evaluate_segmentation(prediction, truth, task.table, tolerances_mm=(1.0, 2.0))
    counted = [each[free] for each in slices] if task.is_same else slices
    return Score(
        {each.name: each.dsc for each in report.labels},
        {each.name: each.nsd[0] for each in report.labels},
        {each.name: each.nsd[1] for each in report.labels},
        absence(*counted, task.table),
    )


def mean(values: Sequence[float | None]) -> float:
    """Mean of what is there; NaN for nothing."""
    return float(np.mean([value for value in values if value is not None] or [np.nan]))


@dataclass(frozen=True)
class Row:
    """A method on all tasks of a kind.

    Attributes:
        method, task: Names.
        dsc, nsd1, nsd2: By organ, means over the tasks; NSD at 1 and 2 mm.
        absence: Summed over the tasks.
        seconds: For an answer.
    """

    method: str
    task: str
    dsc: dict[str, float]
    nsd1: dict[str, float]
    nsd2: dict[str, float]
    absence: Absence
    seconds: float

    def __str__(self) -> str:
        a = self.absence
        return (
            f"{self.method:12s} {self.task:32s} DSC {_listed(self.dsc)}  NSD 1 mm {mean([*self.nsd1.values()]):.3f}, "
            f"2 mm {_listed(self.nsd2)}  absent but marked {a.marked_share:.1%} of {a.absent}, "
            f"there but missed {a.missed_share:.1%} of {a.present}  {self.seconds:.1f} s"
        )

    def to_json(self) -> dict[str, object]:
        """All of it, with means over the organs."""
        means = {f"mean_{name}": mean([*getattr(self, name).values()]) for name in ("dsc", "nsd1", "nsd2")}
        return {**vars(self), **means, "absence": vars(self.absence)}


def joined(method: str, task: str, scores: Sequence[Score], seconds: float) -> Row:
    """Scores as a row."""
    by_organ = (
        {organ: mean([getattr(score, name)[organ] for score in scores]) for organ in getattr(scores[0], name)}
        for name in ("dsc", "nsd1", "nsd2")
    )
    return Row(method, task, *by_organ, sum((score.absence for score in scores), Absence()), round(seconds, 1))


def run(method: str, answer: Answer, tasks: Sequence[Task]) -> list[Row]:
    """A method on all tasks: one row a kind of task, which is printed."""
    rows = []
    for kind in dict.fromkeys(task.kind for task in tasks):
        scores, began = [], time.perf_counter()
        for task in (each for each in tasks if each.kind == kind):
            labels = answer(task)
            if labels is not None:
                scores.append(measure(task, labels))
        if scores:
            rows.append(joined(method, kind, scores, (time.perf_counter() - began) / len(scores)))
            print(rows[-1], flush=True)
    return rows


def named_models(words: Sequence[str]) -> dict[str, LoadedModel]:
    """Models by the names of their methods, from words NAME=MODEL; MODEL is a folder or the name of one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {name: load_model(path, device) for name, _, path in (word.partition("=") for word in words)}


def hardware() -> str:
    """What computes."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {os.cpu_count()} cores"


def _listed(by_organ: dict[str, float]) -> str:
    return " ".join(f"{value:.3f}" for value in by_organ.values()) + f" (mean {mean([*by_organ.values()]):.3f})"
