"""Checks that the readers of cohort files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import CohortError, InputError
from ..io.segmentation_io import is_slicer_segmentation
from ..labels import ScribbleConvention
from .cohort import Case, Cohort


def declared_convention(convention: ScribbleConvention | None, cases: tuple[Case, ...]) -> ScribbleConvention:
    """The convention; it may be missing only where no case needs it."""
    if convention is not None:
        return convention
    for case in cases:
        if case.scribbles is not None and not is_slicer_segmentation(case.scribbles):
            raise CohortError(
                f"The case '{case.name}' has scribbles, but no scribble convention is declared: say which value is "
                "unlabelled and which is background."
            )
    return ScribbleConvention.INTERNAL


def check_files(cohort: Cohort) -> None:
    for case in cohort.cases:
        named = {**case.images, "scribbles": case.scribbles, "mask": case.mask}
        for what, path in named.items():
            if path is not None and not _exists(path):
                raise CohortError(f"The file '{path}' ({what}) of the case '{case.name}' does not exist.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # names that are too long or hold a null character
        return False


def case_path(value: object, folder: Path, name: str) -> Path:
    if not isinstance(value, str) or not value.strip():
        raise CohortError(f"The case '{name}' should name its files by paths, got {value!r}.")
    path = Path(os.path.normpath(folder / value))
    if "\\" in value and not _exists(path):  # perhaps it was written on Windows
        written_on_windows = Path(os.path.normpath(folder / value.replace("\\", "/")))
        path = written_on_windows if _exists(written_on_windows) else path
    return path


def optional_case_path(value: object, folder: Path, name: str) -> Path | None:
    return None if value is None else case_path(value, folder, name)


def relative_path(path: Path, folder: Path) -> str:
    try:
        return str(PurePosixPath(*Path(os.path.relpath(path, folder)).parts))
    except ValueError:  # another drive of Windows
        return str(path)


def json_object(
    data: object, what: str, required: set[str] | None = None, optional: set[str] | None = None
) -> dict[str, object]:
    """Check that `data` is a JSON object and, when keys are given, that it has these and no others."""
    if not isinstance(data, dict):
        raise CohortError(f"An object with named values was expected as {what}, got {type(data).__name__}.")
    if required is None:
        return data
    missing = sorted(required - set(data))
    if missing:
        raise CohortError(f"{what[0].upper()}{what[1:]} lacks {', '.join(missing)}.")
    unknown = sorted(set(data) - required - (optional or set()))
    if unknown:
        raise CohortError(f"{what[0].upper()}{what[1:]} has unknown keys: {', '.join(unknown)}.")
    return data


def json_list(data: object, what: str) -> list[object]:
    if not isinstance(data, list):
        raise CohortError(f"A list was expected as '{what}', got {type(data).__name__}.")
    return data


def json_text(data: object, what: str) -> str:
    if not isinstance(data, str):
        raise CohortError(f"Text was expected as {what}, got {data!r}.")
    return data


@contextmanager
def as_cohort_error(context: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise CohortError(f"{context}: {error}") from error
