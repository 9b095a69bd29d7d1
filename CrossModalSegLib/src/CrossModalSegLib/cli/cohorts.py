"""Cohorts from whatever a person points at."""

from __future__ import annotations

from pathlib import Path

from CrossModalSegLib.cohort import Cohort, cohort_from_nnunet, read_cohort


def cohort_files(path: Path, cohort: Cohort) -> list[Path]:
    """The cohort file, or the folder taken for one, and the files of its cases."""
    files = [path]
    for case in cohort.cases:
        files += [*case.images.values(), *(each for each in (case.scribbles, case.mask) if each is not None)]
    return files


def read_any_cohort(path: Path) -> Cohort:
    """Read a cohort file, or take over a raw folder of nnU-Net (the folder, or its dataset.json).

    Raises:
        CohortError: it is none of these, or a file of a case is missing.
    """
    if path.is_dir():
        return cohort_from_nnunet(path)
    if path.name == "dataset.json":
        return cohort_from_nnunet(path.parent)
    return read_cohort(path)
