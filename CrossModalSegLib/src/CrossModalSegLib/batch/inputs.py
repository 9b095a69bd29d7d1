"""Which files a case was made from, those of the model too, so that results are never taken for those of others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from CrossModalSegLib.cohort import Case
from CrossModalSegLib.worker.messages import Model

from .settings import BatchSettings

_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class InputFile:
    """A file as it was when it was read; where it lay does not matter.

    Attributes:
        bytes: its size.
        modified: when it was written last, in nanoseconds.
        sha256: of what it holds, hexadecimal.
    """

    bytes: int
    modified: int
    sha256: str


def input_files(
    case: Case, modalities: tuple[str, ...], settings: BatchSettings, model: Model | None = None
) -> list[Path]:
    """The files that are read for a case; of those that keep their voxels in other files, these are left out.

    Args:
        case: one of the cohort.
        modalities: of the images that are used.
        settings: what is done.
        model: that is named in the settings; None for the default one.
    """
    paths = [case.images[name] for name in modalities]
    if settings.action != "segment" and case.scribbles is not None:
        paths.append(case.scribbles)
    weights = [] if model is None else sorted(model.folder.glob("*.safetensors"))
    return [*(each for path in paths for each in _within(path)), *weights]


def as_they_are(files: Sequence[Path]) -> tuple[InputFile, ...]:
    """What to remember of files.

    Raises:
        OSError: one cannot be read.
    """
    return tuple(InputFile(each.stat().st_size, each.stat().st_mtime_ns, _digest(each)) for each in files)


def are_others(files: Sequence[Path], known: Sequence[InputFile]) -> bool:
    """Whether files hold something else than those that are remembered; they are only read where that is not plain.

    Those that cannot be read any more count as the same.
    """
    if not all(each.exists() for each in files):
        return False
    if len(files) != len(known):
        return True
    try:
        found = [(each.stat().st_size, each.stat().st_mtime_ns) for each in files]
        if found == [(each.bytes, each.modified) for each in known]:
            return False
        if [size for size, _ in found] != [each.bytes for each in known]:
            return True
        return [_digest(each) for each in files] != [each.sha256 for each in known]
    except OSError:
        return False


def _within(path: Path) -> list[Path]:
    """The file, or all of a folder, as a DICOM series is."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()
