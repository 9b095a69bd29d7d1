"""The files of a referring segmentation, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from CrossModalSegLib.cli.segmentation_files import write_on_grid, write_probabilities
from CrossModalSegLib.cohort import LoadedCase, as_file_name
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.referring import REFERENCE, ReferResult
from CrossModalSegLib.io import write_segmentation
from CrossModalSegLib.io.image_io import split_suffix
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.output import write_json
from CrossModalSegLib.report import ReferredImage, write_refer_overlay
from CrossModalSegLib.versions import library_versions
from CrossModalSegLib.volume import Volume


@dataclass(frozen=True, eq=False)
class Referred:
    """A result with what it was made from.

    Attributes:
        result: Of the session.
        loaded: The reference and its scribbles.
        targets: Images by the names of the result.
        table: The organs.
        card: Of the model.
        device: Where it was computed.
        looking_seconds: For the features of all images, before the strokes were answered.
    """

    result: ReferResult
    loaded: LoadedCase
    targets: dict[str, Volume]
    table: LabelTable
    card: ModelCard
    device: str
    looking_seconds: float


def result_names(paths: Sequence[Path]) -> list[str]:
    """Names for the results of some files or DICOM folders: the files' own without suffix, numbered where they repeat.

    Capitals make no difference, as on some disks, names that Windows refuses are changed, and only the first one, the
    reference, may be called so.
    """
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        stem = _stem(path.absolute().name)
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken |= {name.casefold(), REFERENCE}
        names.append(name)
    return names


def write_referred(referred: Referred, reference: str, files: Mapping[str, Path], folder: Path) -> None:
    """Write NAME.nii.gz (.nrrd on a sheared grid) and NAME.seg.nrrd of each image, overlay.png and report.json.

    With probabilities, each image has a folder NAME_probabilities.

    Args:
        referred: What to write.
        reference: The reference's name.
        files: By name, where the images came from.
        folder: An existing folder.
    """
    result, table = referred.result, referred.table
    for key, labels in result.segmentations.items():
        name = reference if key == REFERENCE else key
        write_on_grid(labels, folder, name)
        write_segmentation(labels, table, folder / f"{name}.seg.nrrd")
        if key in result.probabilities:
            inner = folder / f"{name}_probabilities"
            inner.mkdir()
            write_probabilities(result.probabilities[key], labels, table, inner)
    _write_overlay(referred, reference, folder / "overlay.png")
    write_json(_report(referred, reference, files), folder / "report.json")


def lines(referred: Referred, reference: str) -> Iterator[str]:
    """What a person wants to know at once."""
    for key, report in referred.result.reports.items():
        found = ", ".join(f"{name} {report.milliliters[name]:.1f} ml" for name in report.present)
        yield f"{reference if key == REFERENCE else key}: {found or 'no organ was found'}"
    apart = [key for key, report in referred.result.reports.items() if report.overlap == 0]
    if apart:
        yield (
            f"note: {', '.join(apart)} and the reference do not overlap in patient space, so their slices were matched "
            "by order."
        )
    tuning = referred.result.tuning
    if tuning is not None and not tuning.note:
        ending = f"rose from {tuning.before:.3f} to {tuning.after:.3f}" if tuning.is_better else "did not rise"
        new = ", ".join(label.name for label in referred.table.labels if label.value in tuning.new)
        yield f"tuning: in {tuning.steps} steps the agreement with held-out strokes {ending}" + (
            f"; new to the model: {new}" if new else ""
        )


def _stem(name: str) -> str:
    stem, _ = split_suffix(name)
    return as_file_name(stem[: -len(".seg")] if stem.lower().endswith(".seg") else stem, "image")


def _write_overlay(referred: Referred, reference: str, path: Path) -> None:
    result = referred.result
    images = {REFERENCE: referred.loaded.grid, **referred.targets}
    shown = {
        key: ReferredImage(image, result.segmentations[key], result.reports[key].matching)
        for key, image in images.items()
    }
    first = reference, shown.pop(REFERENCE)
    write_refer_overlay(path, first, referred.loaded.scribbles, shown, referred.table)


def _report(referred: Referred, reference: str, files: Mapping[str, Path]) -> dict[str, object]:
    result, card = referred.result, referred.card
    named = {reference if key == REFERENCE else key: report for key, report in result.reports.items()}
    return {
        "reference": reference,
        "images": {name: {"file": files[name], **_rounded(vars(report))} for name, report in named.items()},
        "labels": referred.table.to_json(),
        "model": {"name": card.name, "sha256": card.weights_sha256, "licence": card.licence},
        "device": referred.device,
        "seconds": {"look at the images": round(referred.looking_seconds, 2), "answer": round(result.seconds, 2)},
        "tuning": result.tuning,
        "not_trained_on": result.unseen,
        "versions": library_versions(),
    }


def _rounded(value: object) -> object:
    """Floats, also inside of dicts, with three digits behind the point."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 3) if isinstance(value, float) else value
