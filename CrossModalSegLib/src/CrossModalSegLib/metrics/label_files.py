"""Which files of a folder are segmentations, and of which case."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

import numpy as np

from ..errors import GeometryError, InputError, LabelError
from ..io.image_io import READABLE, split_suffix
from ..io.segmentation_io import is_slicer_segmentation, read_segmentation
from ..volume import place_on_grid

# What is written beside a segmentation on request: beside "segmentation" without its name, else with it.
_BESIDE = re.compile(r"(?:(?P<name>.+)_)?(?:probability_\d+_.+|uncertainty)")
_UNNAMED = "segmentation"


def label_files(folder: str | Path) -> dict[str, Path]:
    """One segmentation file for each name of a folder, without suffix.

    Where NAME.seg.nrrd, whose names of classes are sure, lies beside the same segmentation as a label map, it is taken.

    Raises:
        InputError: the folder does not exist, holds no such file, or two files of one name with different content.
    """
    return {name: _one_of(name, paths) for name, paths in all_label_files(folder).items()}


def all_label_files(folder: str | Path) -> dict[str, list[Path]]:
    """All files of a folder that may be segmentations, by name without suffix; none of them is read.

    Hidden ones, such as macOS leaves behind, do not count.

    Raises:
        InputError: the folder does not exist, or holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"A folder with segmentations was expected, but {folder} is not a folder.")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        name, suffix = split_suffix(path.name)
        if suffix and not path.name.startswith(".") and path.is_file():
            files.setdefault(name, []).append(path)
    if not files:
        raise InputError(f"{folder} holds no segmentation; {', '.join(READABLE)} files are looked for.")
    return files


def without_extras(predictions: dict[str, Path], wanted: Container[str]) -> dict[str, Path]:
    """The files without probabilities and uncertainties that were written beside one of them.

    Args:
        predictions: by name.
        wanted: names that have a partner, so that they stay in any case.
    """
    return {name: path for name, path in predictions.items() if name in wanted or not _is_beside(name, predictions)}


def _is_beside(name: str, others: Container[str]) -> bool:
    found = _BESIDE.fullmatch(name)
    return found is not None and (found["name"] or _UNNAMED) in others


def _one_of(name: str, paths: list[Path]) -> Path:
    if len(paths) == 1:
        return paths[0]
    named = next((path for path in paths if is_slicer_segmentation(path)), None)
    if named is None or not all(path == named or _hold_the_same(named, path) for path in paths):
        raise InputError(
            f"{paths[0].parent} holds two files for the case {name!r} that are not the same segmentation: "
            f"{' and '.join(path.name for path in paths)}. Keep one of them."
        )
    return named


def _hold_the_same(named: Path, plain: Path) -> bool:
    """Whether the segments of one file are the classes of another, a label map, voxel for voxel."""
    try:
        segments, _ = read_segmentation(named)
        labels, _ = read_segmentation(plain)
    except (GeometryError, LabelError):  # the other one is an image, perhaps
        return False
    placed = place_on_grid(segments, labels)
    return placed is not None and np.array_equal(placed.array, labels.array)
