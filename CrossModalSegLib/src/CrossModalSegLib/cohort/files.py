"""Reading and writing cohort files, by their suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import CohortError
from .cohort import Cohort
from .csv_file import read_csv_cohort, write_csv_cohort
from .fields import as_cohort_error, check_files
from .json_file import read_json_cohort, write_json_cohort


def read_cohort(path: str | Path) -> Cohort:
    """Read a .json or .csv cohort file and check that its files exist.

    Args:
        path: the file; the text of the package shows both forms.

    Raises:
        CohortError: the file is missing or malformed, or a file of a case does not exist; case and path are named.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Cohort]] = {".json": read_json_cohort, ".csv": read_csv_cohort}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CohortError(f"A cohort is a .json or .csv file, got '{path}'.")
    with as_cohort_error(f"The cohort file '{path}' is not usable"):
        cohort = reader(path)
        check_files(cohort)
    return cohort


def write_cohort(cohort: Cohort, path: str | Path) -> None:
    """Write a .json or .csv cohort file; paths become relative to it where they can.

    Args:
        cohort: the cohort. CSV keeps the names of its labels, not their colours and terminology.
        path: the file.

    Raises:
        CohortError: the suffix is unknown.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    writers: dict[str, Callable[[Cohort, Path], None]] = {".json": write_json_cohort, ".csv": write_csv_cohort}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise CohortError(f"A cohort is a .json or .csv file, got '{path}'.")
    writer(cohort, path)
