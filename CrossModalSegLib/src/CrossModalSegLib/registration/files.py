"""Transforms as files."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from ..output import atomic_path

_TRANSFORM_SUFFIXES = (".tfm", ".txt", ".h5", ".hdf5")


def check_transform_suffix(path: Path) -> None:
    """InputError unless a transform can be written to a file of this name."""
    if path.suffix.lower() not in _TRANSFORM_SUFFIXES:
        raise InputError(f"A transform is written to {', '.join(_TRANSFORM_SUFFIXES)}, got '{path.name}'; rename it.")


def write_transform(transform: sitk.Transform, path: str | Path) -> None:
    """Write a transform (.tfm, .txt, .h5, .hdf5) in ITK's form, which 3D Slicer reads, complete or not at all.

    Raises:
        InputError: The file's ending is none of these.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    check_transform_suffix(path)
    with atomic_path(path) as temporary:
        sitk.WriteTransform(transform, str(temporary))
