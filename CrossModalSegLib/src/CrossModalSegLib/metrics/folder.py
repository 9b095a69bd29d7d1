"""Measures of a folder of segmentations against a folder of references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError, LabelError
from ..io.segmentation_io import read_mask_segments, read_segment_table, read_segmentation
from ..labels import BACKGROUND_NAME, MAX_CLASSES, LabelTable
from ..volume import Volume, place_on_grid, same_geometry
from .label_files import label_files, without_extras
from .segmentation import (
    DEFAULT_TOLERANCES_MM,
    STATUS_TEXT,
    LabelMetrics,
    MetricsReport,
    evaluate_segmentation,
    mean_of,
)
from .text_table import number, text_table


@dataclass(frozen=True)
class CaseMetrics:
    """Name and measures of one case."""

    name: str
    report: MetricsReport


@dataclass(frozen=True)
class FolderReport:
    """Measures of all cases of a folder, in the order of their names.

    Attributes:
        cases: Those with a segmentation and a mask.
        missing: Names of cases with a mask of which there is no segmentation; they count in no mean.
    """

    cases: tuple[CaseMetrics, ...]
    missing: tuple[str, ...] = ()

    @property
    def mean_dsc(self) -> float | None:
        """Mean over the labels of the means over the cases."""
        return mean_of([mean_of([label.dsc for label in labels]) for labels in self.by_label().values()])

    @property
    def means(self) -> dict[str, float | None]:
        """Of each measure, the mean over the labels of the means over the cases that have it: "dsc", "asd_mm" …"""
        summaries = [_means(labels, self.tolerances_mm) for labels in self.by_label().values()]
        return {measure: mean_of([each[measure] for each in summaries]) for measure in (summaries or [{}])[0]}

    @property
    def tolerances_mm(self) -> tuple[float, ...]:
        """Of the NSD values."""
        return self.cases[0].report.tolerances_mm if self.cases else ()

    def by_label(self) -> dict[str, list[LabelMetrics]]:
        """Measures of all cases, for each label name."""
        collected: dict[str, list[LabelMetrics]] = {}
        for case in self.cases:
            for label in case.report.labels:
                collected.setdefault(label.name, []).append(label)
        return collected

    @property
    def left_out(self) -> dict[str, int]:
        """Segments that masks have beside those of the predictions, and in how many cases."""
        return dict(Counter(name for case in self.cases for name in case.report.left_out))

    def to_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "mean_dsc": self.mean_dsc,
            "mean": self.means,
            "labels": {name: _summary(labels, self.tolerances_mm) for name, labels in self.by_label().items()},
            "missing": list(self.missing),
            "cases": [{"name": case.name, **case.report.to_json()} for case in self.cases],
        }

    def table(self) -> str:
        """A plain-text table: mean ± standard deviation over the cases for each label, and means over the labels."""
        tolerances = self.tolerances_mm
        header = ["label", "DSC", "ASD mm", "HD95 mm", *(f"NSD {t:g} mm" for t in tolerances), "cases", "remarks"]
        rows = []
        for name, labels in self.by_label().items():
            nsd = [_spread([label.nsd[index] for label in labels], 3) for index in range(len(tolerances))]
            rows.append(
                [
                    name,
                    _spread([label.dsc for label in labels], 3),
                    _spread([label.asd_mm for label in labels], 2),
                    _spread([label.hd95_mm for label in labels], 2),
                    *nsd,
                    str(sum(label.dsc is not None for label in labels)),
                    _remarks(labels),
                ]
            )
        dsc, asd, hd95, *nsd = self.means.values()
        means = [number(dsc, 3), number(asd, 2), number(hd95, 2), *(number(each, 3) for each in nsd)]
        rows.append(["mean", *means, "", ""])
        return text_table(header, rows)


def evaluate_folder(
    prediction_dir: str | Path,
    mask_dir: str | Path,
    table: LabelTable | None = None,
    tolerances_mm: tuple[float, ...] = DEFAULT_TOLERANCES_MM,
    on_case: Callable[[int, int, str], None] | None = None,
) -> FolderReport:
    """Measure every segmentation of a folder against the file of the same name in another folder.

    Names are compared without their suffix, so `case1.seg.nrrd` pairs with `case1.nii.gz`. A folder may hold a case as
    both of these; probabilities and uncertainties beside it do not count.

    Args:
        prediction_dir: folder with segmentations.
        mask_dir: folder with reference masks.
        table: the labels; None takes those stored in the files, or else numbers.
        tolerances_mm: distances at which NSD is given.
        on_case: called with (done, total, name) before each case.

    Returns:
        Measures of all cases.

    Raises:
        InputError: a folder is missing or empty, or files have no partner.
        GeometryError: a pair is not on the same grid.
        LabelError: a file holds unknown labels.
    """
    masks = label_files(mask_dir)
    predictions = without_extras(label_files(prediction_dir), masks)
    _require_pairs(predictions, masks, Path(prediction_dir), Path(mask_dir))
    cases = []
    for index, name in enumerate(sorted(predictions)):
        if on_case is not None:
            on_case(index, len(predictions), name)
        cases.append(CaseMetrics(name, evaluate_files(predictions[name], masks[name], table, tolerances_mm)))
    return FolderReport(tuple(cases))


def evaluate_files(
    prediction: str | Path,
    mask: str | Path,
    table: LabelTable | None = None,
    tolerances_mm: tuple[float, ...] = DEFAULT_TOLERANCES_MM,
) -> MetricsReport:
    """Measure one segmentation file against one reference file; see `evaluate_folder` for the arguments.

    Segments of 3D Slicer count by their names, whatever their values and order; one called "background" is the
    background. A cropped box, as Slicer stores it, is put back where it was cut out. Where the mask holds more segments
    than the prediction, and all of its own, those in both are measured; the report names the others.

    Raises:
        LabelError: a segment has a name that the table, or else the other file, does not know, or a value is above 254.
        InputError: a file cannot be read; the message names both files.
    """
    files = (Path(prediction), Path(mask))
    try:
        own = [read_segment_table(path) for path in files]
        classes = [None if each is None else _classes(each) for each in own]
        plain = [read_segmentation(path)[0] for path, each in zip(files, own, strict=True) if each is None]
        labels = table or next(filter(None, classes), None) or _numbered(*(volume.array for volume in plain))
        left_out = () if table else _only_in_mask(*classes)
        predicted, reference = (
            plain.pop(0) if each is None else read_mask_segments(path, labels, ignored=left_out)
            for path, each in zip(files, own, strict=True)
        )
        predicted, reference = _on_one_grid(predicted, reference, *(each is not None for each in own))
        return replace(evaluate_segmentation(predicted, reference, labels, tolerances_mm), left_out=left_out)
    except InputError as error:
        raise type(error)(f"{error} (prediction: {prediction}; mask: {mask})") from error


def _require_pairs(predictions: dict[str, Path], masks: dict[str, Path], prediction_dir: Path, mask_dir: Path) -> None:
    """Raise InputError that names the cases which only one of the folders holds."""
    complaints = [
        f"{', '.join(sorted(only)[:10])}{' …' if len(only) > 10 else ''} only in {folder}"
        for only, folder in ((set(predictions) - set(masks), prediction_dir), (set(masks) - set(predictions), mask_dir))
        if only
    ]
    if complaints:
        raise InputError(
            f"Predictions and masks are paired by file name, and some have no partner: {'; '.join(complaints)}. "
            "Rename, add or remove these files."
        )


def _classes(table: LabelTable) -> LabelTable | None:
    """The classes of a file's table, numbered from 1 without a segment called "background"; None without any."""
    kept = [label for label in table.labels if label.name.casefold() != BACKGROUND_NAME]
    return LabelTable(tuple(replace(label, value=value) for value, label in enumerate(kept, start=1))) if kept else None


def _only_in_mask(predicted: LabelTable | None, reference: LabelTable | None) -> tuple[str, ...]:
    """Names of segments that a mask has beside all those of the prediction.

    None where it lacks one of these: two names for one structure are more likely then.
    """
    if predicted is None or reference is None:
        return ()
    known = {name.casefold() for name in predicted.names}
    others = tuple(name for name in reference.names if name.casefold() not in known)
    return others if len(others) + len(known) == len(reference) else ()


def _on_one_grid(a: Volume, b: Volume, a_may_be_cut: bool, b_may_be_cut: bool) -> tuple[Volume, Volume]:
    """Put cropped boxes back: one on the other's grid, or both on a box around them. Other grids stay as they are."""
    if same_geometry(a, b):
        return a, b
    if b_may_be_cut and (placed := place_on_grid(b, a)) is not None:
        return a, placed
    if a_may_be_cut and (placed := place_on_grid(a, b)) is not None:
        return placed, b
    box = _box_around(a, b) if a_may_be_cut and b_may_be_cut else None
    return (a, b) if box is None else (place_on_grid(a, box), place_on_grid(b, box))


def _box_around(a: Volume, b: Volume) -> Volume | None:
    """An empty volume that holds both, None where their voxels do not coincide."""
    shift = np.rint(np.linalg.solve(a.affine, b.affine[:, 3])[:3]).astype(int)[::-1]
    if not same_geometry(b, Volume(b.array, _moved(a.affine, shift))):
        return None
    low, high = np.minimum(shift, 0), np.maximum(shift + b.shape, a.shape)
    return Volume(np.zeros(high - low, dtype=np.uint8), _moved(a.affine, low))


def _moved(affine: np.ndarray, voxels_kji: np.ndarray) -> np.ndarray:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ voxels_kji[::-1]
    return moved


def _numbered(*arrays: np.ndarray) -> LabelTable:
    """Labels "label 1" … up to the highest value that occurs."""
    highest = max(1, *(int(array.max()) for array in arrays))
    if highest > MAX_CLASSES:
        raise LabelError(f"Values up to {MAX_CLASSES} can be told apart, got {highest}; number the labels anew.")
    return LabelTable.from_names([f"label {value}" for value in range(1, highest + 1)])


def _summary(labels: list[LabelMetrics], tolerances_mm: tuple[float, ...]) -> dict[str, object]:
    """Means and counts of one label over the cases."""
    counts = {status: sum(label.status == status for label in labels) for status in STATUS_TEXT}
    return {**_means(labels, tolerances_mm), "counts": counts}


def _means(labels: list[LabelMetrics], tolerances_mm: tuple[float, ...]) -> dict[str, float | None]:
    """Means of one label over the cases."""
    return {
        "dsc": mean_of([label.dsc for label in labels]),
        "asd_mm": mean_of([label.asd_mm for label in labels]),
        "hd95_mm": mean_of([label.hd95_mm for label in labels]),
        **{f"nsd@{t:g}mm": mean_of([label.nsd[n] for label in labels]) for n, t in enumerate(tolerances_mm)},
    }


def _spread(values: list[float | None], digits: int) -> str:
    """Mean ± standard deviation (population) of the values that exist."""
    present = [value for value in values if value is not None]
    if not present:
        return number(None, digits)
    return f"{np.mean(present):.{digits}f} ± {np.std(present):.{digits}f}"


def _remarks(labels: list[LabelMetrics]) -> str:
    """Which cases do not have both masks, in words."""
    counts = {status: sum(label.status == status for label in labels) for status in STATUS_TEXT if status != "ok"}
    return ", ".join(f"{count} {STATUS_TEXT[status]}" for status, count in counts.items() if count)
