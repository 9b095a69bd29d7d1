"""What became of the cases: a report that is whole at any time, and tells what is finished."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from CrossModalSegLib.cohort import Cohort
from CrossModalSegLib.config import from_dict, read_json
from CrossModalSegLib.errors import CrossModalSegError, OutputError
from CrossModalSegLib.output import atomic_path, final_name, write_json
from CrossModalSegLib.versions import library_versions

from .inputs import InputFile

JSON_FILE, CSV_FILE, CASE_FILE = "report.json", "report.csv", "case.json"
_COLUMNS = ("case", "status", "image", "structure", "ml", "seconds", "device", "message")


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: its name.
        status: "done" or "failed".
        seconds: it took.
        device: where it was computed.
        milliliters: by the name of the image's files and class name.
        files: in the folder of the case.
        message: why it failed.
        notes: what the worker said meanwhile.
        inputs: the files that it was made from; empty where they are not known.
    """

    case: str
    status: Literal["done", "failed"]
    seconds: float
    device: str = ""
    milliliters: dict[str, dict[str, float]] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    message: str = ""
    notes: tuple[str, ...] = ()
    inputs: tuple[InputFile, ...] = ()


def finished(out: Path, case: str) -> Outcome | None:
    """What an earlier run wrote of a case; None where it is not finished.

    A case's folder appears complete or not at all, and with it this file.
    """
    path = out / case / CASE_FILE
    if not path.is_file():
        return None
    try:
        return from_dict(Outcome, read_json(path))
    except CrossModalSegError as error:
        raise OutputError(f"'{path}' cannot be read ({error}) Remove the folder '{path.parent}'.") from error


def require_same(out: Path, settings: Mapping[str, object]) -> None:
    """Check that a folder holds an earlier run of the same settings.

    Raises:
        OutputError: it holds something else, or results of other settings.
    """
    path = out / JSON_FILE
    if not path.is_file():
        raise OutputError(f"'{out}' holds files but no {JSON_FILE} of an earlier run; name another folder.")
    try:
        before = read_json(path)["settings"]
    except (CrossModalSegError, KeyError, TypeError) as error:
        raise OutputError(f"'{path}' is no report of an earlier run; name another folder.") from error
    different = [name for name, value in settings.items() if not isinstance(before, dict) or before.get(name) != value]
    if different:
        raise OutputError(
            f"'{out}' was made with other settings ({', '.join(different)}); go on with the same ones, or name another "
            "folder."
        )


def remove_remains(out: Path, cohort: Cohort) -> None:
    """Take away what a killed run was just writing."""
    from shutil import rmtree

    known = {JSON_FILE, CSV_FILE, *(case.name for case in cohort.cases)}
    for path in out.iterdir():
        if final_name(path.name) in known:
            rmtree(path) if path.is_dir() else path.unlink()


def write_report(out: Path, settings: Mapping[str, object], cohort: Cohort, outcomes: Mapping[str, Outcome]) -> None:
    """Write report.json and report.csv, each in place of the one before.

    Raises:
        OutputError: they cannot be written.
    """
    known = [outcomes[case.name] for case in cohort.cases if case.name in outcomes]
    statuses = [each.status for each in known]
    content = {
        "settings": settings,
        "counts": {
            "done": statuses.count("done"),
            "failed": statuses.count("failed"),
            "open": len(cohort.cases) - len(known),
        },
        "cases": known,
        "versions": library_versions(),
    }
    write_json(content, out / JSON_FILE)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for outcome in known:
        writer.writerows(_rows(outcome))
    with atomic_path(out / CSV_FILE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def _rows(outcome: Outcome) -> list[list[object]]:
    """One row for each structure of each image; one for a case that failed."""
    end = [round(outcome.seconds, 1), outcome.device, outcome.message]
    measured = [
        [outcome.case, outcome.status, image, structure, round(milliliters, 3), *end]
        for image, structures in outcome.milliliters.items()
        for structure, milliliters in structures.items()
    ]
    return measured or [[outcome.case, outcome.status, "", "", "", *end]]
