"""Raw data folders of nnU-Net as cohorts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..config import read_json
from ..errors import CohortError
from ..labels import BACKGROUND_NAME, LabelTable, ScribbleConvention
from .cohort import Case, Cohort
from .fields import as_cohort_error, check_files, json_object, json_text


def cohort_from_nnunet(folder: str | Path) -> Cohort:
    """Take over a raw folder of nnU-Net: dataset.json, imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz.

    Labels with an "ignore" class are scribbles; without one they are masks.

    Args:
        folder: such as nnUNet_raw/Dataset001_Abdomen, of version 1 or 2.

    Raises:
        CohortError: it has another form, uses regions, or an image is missing.
    """
    folder = Path(folder)
    with as_cohort_error(f"The nnU-Net folder '{folder}' is not usable"):
        dataset = json_object(read_json(folder / "dataset.json"), "dataset.json")
        modalities = _nnunet_modalities(dataset)
        names, ignore = _nnunet_labels(dataset)
        cases = tuple(_nnunet_cases(folder, str(dataset.get("file_ending", ".nii.gz")), modalities, ignore is not None))
        convention = ScribbleConvention.INTERNAL if ignore is None else ScribbleConvention.nnunet(ignore)
        cohort = Cohort(modalities, LabelTable.from_names(names), convention, cases, folder)
        check_files(cohort)
    return cohort


def _nnunet_modalities(dataset: dict[str, object]) -> tuple[str, ...]:
    channels = json_object(dataset.get("channel_names", dataset.get("modality")), "'channel_names'")
    wanted = [str(index) for index in range(len(channels))]
    if set(channels) != set(wanted):
        raise CohortError(f"The channels should be numbered from 0, got {', '.join(channels)}.")
    return tuple(json_text(channels[index], "a channel name").strip().lower().replace("/", "-") for index in wanted)


def _nnunet_labels(dataset: dict[str, object]) -> tuple[list[str], int | None]:
    """Names of the classes 1..K in order, and the ignore value."""
    labels = json_object(dataset.get("labels"), "'labels'")
    if all(re.fullmatch(r"\d{1,9}", key, re.ASCII) for key in labels) and all(
        isinstance(value, str) for value in labels.values()
    ):
        labels = {value: int(key) for key, value in labels.items()}  # version 1 has value -> name
    if not all(type(value) is int for value in labels.values()):
        raise CohortError("Region-based labels cannot be used; each label should have one whole number.")
    values = {str(name): value for name, value in labels.items()}
    ignore = values.pop("ignore", None)
    background = next((name for name in values if name.casefold() == BACKGROUND_NAME), BACKGROUND_NAME)
    if values.pop(background, 0) != 0:
        raise CohortError("The label 'background' should have the value 0.")
    ordered = sorted(values, key=values.__getitem__)
    if [values[name] for name in ordered] != list(range(1, len(ordered) + 1)):
        raise CohortError(f"The labels should be numbered from 1 without gaps, got {values}.")
    return ordered, ignore


def _nnunet_cases(folder: Path, ending: str, modalities: tuple[str, ...], scribbles: bool) -> Iterator[Case]:
    # Not those that begin with a dot: macOS leaves "._NAME" beside each file on other file systems.
    label_files = sorted((folder / "labelsTr").glob(f"[!.]*{ending}")) if re.fullmatch(r"[.\w]+", ending) else []
    if not label_files:
        raise CohortError(f"There is no file *{ending} in labelsTr.")
    for file in label_files:
        name = file.name.removesuffix(ending)
        images = {
            modality: folder / "imagesTr" / f"{name}_{index:04d}{ending}" for index, modality in enumerate(modalities)
        }
        case = Case(name, images)
        yield replace(case, scribbles=file) if scribbles else replace(case, mask=file)
