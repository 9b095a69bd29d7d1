"""A cohort: cases that share modalities, labels and a scribble convention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import CohortError
from ..labels import LabelTable, ScribbleConvention, check_no_background
from .result_names import is_device

_FORBIDDEN = set('/\\:*?"<>|')


@dataclass(frozen=True)
class Case:
    """The files of one patient or examination.

    Attributes:
        name: also used for output files, so it holds no slash.
        images: path by modality.
        scribbles: path of the scribbles, or None.
        mask: path of the dense label map, or None.
        fold: for cross-validation, 0 and above, or None.

    Raises:
        CohortError: the name or the fold is not usable, or there is no image.
    """

    name: str
    images: dict[str, Path]
    scribbles: Path | None = None
    mask: Path | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _is_file_name(self.name):
            raise CohortError(f"A case name should be usable as a file name, got {self.name!r}.")
        if not self.images:
            raise CohortError(f"The case '{self.name}' has no image.")
        if self.fold is not None and (type(self.fold) is not int or self.fold < 0):
            raise CohortError(f"The fold of the case '{self.name}' should be 0 or above, got {self.fold!r}.")


@dataclass(frozen=True)
class Cohort:
    """Cases that share modalities, labels and a scribble convention.

    Attributes:
        modalities: in the order of the network's inputs; the grid of a case is that of the first.
        labels: the classes.
        convention: what the values of plain scribble files mean.
        cases: at least one.
        folder: where relative paths begin.

    Raises:
        CohortError: modalities or cases are missing, appear twice, or do not fit together.
        LabelError: a class is called "background".
    """

    modalities: tuple[str, ...]
    labels: LabelTable
    convention: ScribbleConvention
    cases: tuple[Case, ...]
    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))
        object.__setattr__(self, "cases", tuple(self.cases))
        if not self.modalities or not all(isinstance(each, str) and _is_file_name(each) for each in self.modalities):
            raise CohortError(f"The modalities should be names such as 'ct' and 'mr', got {list(self.modalities)}.")
        check_unique("modality", self.modalities)
        if taken := sorted({"scribbles", "mask"} & set(self.modalities)):
            raise CohortError(f"'{taken[0]}' is not a modality but what belongs to an image; call the image otherwise.")
        check_no_background(self.labels)
        if not self.cases:
            raise CohortError("A cohort needs at least one case.")
        check_unique("case", [case.name for case in self.cases])
        for case in self.cases:
            if set(case.images) != set(self.modalities):
                raise CohortError(
                    f"The case '{case.name}' should have the images {', '.join(self.modalities)}, "
                    f"got {', '.join(case.images)}."
                )


def check_unique(what: str, names: list[str] | tuple[str, ...]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CohortError(f"Each {what} should appear once; these appear twice: {', '.join(twice)}.")


def as_file_name(name: str, default: str) -> str:
    """A text made usable as the name of a case and of files, also on Windows; `default` where nothing is left of it."""
    plain = "".join("_" if letter in _FORBIDDEN or not letter.isprintable() else letter for letter in name.strip())
    plain = plain.strip(". ") or default
    return f"_{plain}" if is_device(plain) else plain


def _is_file_name(name: str) -> bool:
    plain = name.isprintable() and name == name.strip() and not _FORBIDDEN & set(name)
    return plain and name not in ("", ".", "..")
