"""Cohort files in CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import CohortError
from ..labels import LabelTable, ScribbleConvention
from ..output import atomic_path
from .cohort import Case, Cohort, check_unique
from .fields import case_path, declared_convention, optional_case_path, relative_path

_SEPARATORS = ",;\t"  # spreadsheets write semicolons where a comma is the decimal sign


def read_csv_cohort(path: Path) -> Cohort:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise CohortError(f"The file '{path}' does not exist.") from error
    except (OSError, ValueError) as error:
        raise CohortError(f"'{path}' cannot be read as UTF-8 text ({error}).") from error
    lines = text.splitlines(keepends=True)
    first = next(
        (n for n, line in enumerate(lines) if line.strip().strip(_SEPARATORS) and not _is_declaration(line)), len(lines)
    )
    separator = next((each for each in "".join(lines[first : first + 1]) if each in _SEPARATORS), ",")
    names, convention = _csv_declarations(lines[:first], separator)
    rows = _csv_rows("".join(lines[first:]), separator)
    folder = path.absolute().parent
    header = _filled(next(rows, []))
    modalities = _csv_modalities(header)
    cases = tuple(_csv_case(header, row, folder) for row in rows)
    return Cohort(modalities, LabelTable.from_names(names), declared_convention(convention, cases), cases, folder)


def _csv_declarations(lines: list[str], separator: str) -> tuple[list[str], ScribbleConvention | None]:
    names: list[str] = []
    convention = None
    for line in filter(None, (_declaration(each, separator) for each in lines)):
        key, _, value = line.partition(":")
        if key.strip() == "label":
            names.append(value.strip())
        elif key.strip() == "scribbles":
            convention = _csv_convention(value)
        else:
            raise CohortError(
                f"'# label: NAME' or '# scribbles: unlabelled=N background=N' was expected, got {line!r}."
            )
    return names, convention


def _is_declaration(line: str) -> bool:
    return line.lstrip().removeprefix('"').startswith("#")


def _declaration(line: str, separator: str) -> str:
    """What a line declares. Spreadsheets that save the file fill it up with separators, and quote what holds some."""
    text = line.strip().rstrip(separator).rstrip()
    if text.startswith('"') and text.endswith('"'):
        text = text[1:-1].replace('""', '"')
    return text.lstrip("#").strip()


def _csv_convention(text: str) -> ScribbleConvention:
    found = re.fullmatch(r"\s*unlabelled=(\d{1,9})(?:\s+background=(\d{1,9}))?\s*", text, re.ASCII)
    if not found:
        raise CohortError(f"The scribble convention should say 'unlabelled=N background=N', got {text.strip()!r}.")
    unlabelled, background = found.groups()
    return ScribbleConvention(int(unlabelled), None if background is None else int(background))


def _csv_rows(text: str, separator: str) -> Iterator[list[str]]:
    try:
        for row in csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator):
            if any(cell.strip() for cell in row):
                yield [cell.strip() for cell in row]
    except csv.Error as error:
        raise CohortError(f"The table is not valid CSV: {error}.") from error


def _csv_modalities(header: list[str]) -> tuple[str, ...]:
    check_unique("column", header)
    allowed = {"name", "scribbles", "mask", "fold"}
    unknown = [column for column in header if column not in allowed and not column.startswith("image:")]
    if unknown or "name" not in header:
        raise CohortError(
            "The columns should be name, image:MODALITY for each modality, and maybe scribbles, mask and fold; "
            f"got {', '.join(header) or 'none'}."
        )
    return tuple(column.removeprefix("image:").strip() for column in header if column.startswith("image:"))


def _filled(row: list[str], least: int = 0) -> list[str]:
    """A row without the empty cells at its end, which spreadsheets write for columns that once held something."""
    while len(row) > least and not row[-1]:
        row = row[:-1]
    return row


def _csv_case(header: list[str], row: list[str], folder: Path) -> Case:
    row = _filled(row, len(header))
    if len(row) != len(header):
        raise CohortError(f"A row has {len(row)} cells instead of {len(header)}: {', '.join(row)}.")
    cells = dict(zip(header, row, strict=True))
    name = cells["name"]
    images = {
        column.removeprefix("image:").strip(): case_path(value, folder, name)
        for column, value in cells.items()
        if column.startswith("image:") and value
    }
    return Case(
        name,
        images,
        optional_case_path(cells.get("scribbles") or None, folder, name),
        optional_case_path(cells.get("mask") or None, folder, name),
        _csv_fold(cells.get("fold", ""), name),
    )


def _csv_fold(text: str, name: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise CohortError(f"The fold of the case '{name}' should be a whole number, got {text!r}.")
    return int(text)


def write_csv_cohort(cohort: Cohort, path: Path) -> None:
    folder = path.absolute().parent
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for name in cohort.labels.names:
        writer.writerow([f"# label: {name}"])  # quoted where it holds a comma, which a reader would drop at the end
    background = cohort.convention.background
    text.write(f"# scribbles: unlabelled={cohort.convention.unlabelled}")
    text.write("\n" if background is None else f" background={background}\n")
    writer.writerow(["name", *(f"image:{modality}" for modality in cohort.modalities), "scribbles", "mask", "fold"])
    for case in cohort.cases:
        images = [relative_path(case.images[modality], folder) for modality in cohort.modalities]
        others = ["" if each is None else relative_path(each, folder) for each in (case.scribbles, case.mask)]
        writer.writerow([case.name, *images, *others, "" if case.fold is None else case.fold])
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
