"""Cohort files in JSON."""

from __future__ import annotations

from pathlib import Path

from ..config import read_json
from ..errors import CohortError
from ..labels import LabelTable, ScribbleConvention
from ..output import write_json
from .cohort import Case, Cohort
from .fields import (
    case_path,
    declared_convention,
    json_list,
    json_object,
    json_text,
    optional_case_path,
    relative_path,
)

FORMAT = "crossmodalseg-cohort-1"


def read_json_cohort(path: Path) -> Cohort:
    required, optional = {"modalities", "labels", "cases"}, {"format", "scribble_convention"}
    data = json_object(read_json(path), "the file", required, optional)
    if data.get("format", FORMAT) != FORMAT:
        raise CohortError(f"The format should be '{FORMAT}', got {data['format']!r}.")
    modalities = tuple(json_text(each, "a modality") for each in json_list(data["modalities"], "modalities"))
    labels = LabelTable.from_json(data["labels"])
    folder = path.absolute().parent
    cases = tuple(_json_case(each, folder) for each in json_list(data["cases"], "cases"))
    convention = _json_convention(data.get("scribble_convention"))
    return Cohort(modalities, labels, declared_convention(convention, cases), cases, folder)


def _json_case(data: object, folder: Path) -> Case:
    fields = json_object(data, "a case", {"name", "images"}, {"scribbles", "mask", "fold"})
    name = json_text(fields["name"], "the name of a case")
    images = json_object(fields["images"], f"'images' of the case '{name}'")
    return Case(
        name,
        {modality: case_path(value, folder, name) for modality, value in images.items()},
        optional_case_path(fields.get("scribbles"), folder, name),
        optional_case_path(fields.get("mask"), folder, name),
        fields.get("fold"),
    )


def _json_convention(data: object) -> ScribbleConvention | None:
    if data is None:
        return None
    fields = json_object(data, "'scribble_convention'", {"unlabelled", "background"})
    return ScribbleConvention(fields["unlabelled"], fields["background"])


def write_json_cohort(cohort: Cohort, path: Path) -> None:
    folder = path.absolute().parent
    data = {
        "format": FORMAT,
        "modalities": list(cohort.modalities),
        "labels": cohort.labels.to_json(),
        "scribble_convention": {
            "unlabelled": cohort.convention.unlabelled,
            "background": cohort.convention.background,
        },
        "cases": [_case_to_json(case, cohort.modalities, folder) for case in cohort.cases],
    }
    write_json(data, path)


def _case_to_json(case: Case, modalities: tuple[str, ...], folder: Path) -> dict[str, object]:
    data: dict[str, object] = {
        "name": case.name,
        "images": {modality: relative_path(case.images[modality], folder) for modality in modalities},
    }
    if case.scribbles is not None:
        data["scribbles"] = relative_path(case.scribbles, folder)
    if case.mask is not None:
        data["mask"] = relative_path(case.mask, folder)
    if case.fold is not None:
        data["fold"] = case.fold
    return data
