"""Checks of outputs before long work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from CrossModalSegLib.errors import ModelError, OutputError
from CrossModalSegLib.output import check_spares

if TYPE_CHECKING:
    from CrossModalSegLib.volume import Volume


def check_new_file(path: Path, overwrite: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Check that a file can be written.

    Args:
        path: the file.
        overwrite: whether it may be replaced.
        inputs: what the command reads; None where an option was not given. These are never replaced, nor is a file in
            a folder of them.

    Raises:
        OutputError: it exists and may not be replaced, is a folder, or its folder is not writable.
    """
    if path.is_dir():
        raise OutputError(f"A file should be written to '{path}', but a folder of that name exists. Name a file.")
    if path.exists() and not overwrite:
        raise OutputError(f"The output '{path}' exists. Name another file, or add --overwrite to replace it.")
    given = [each for each in inputs if each is not None]
    check_spares(path, given)
    for folder in given:
        if path.exists() and folder.is_dir() and path.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"'{path}' belongs to the input '{folder}' and is not replaced; name another file.")
    check_writable(path.absolute().parent)


def check_new_folder(
    path: Path, overwrite: bool, inputs: Iterable[Path | None] = (), replaced: str = "all of it"
) -> None:
    """Check that a folder can be written.

    Args:
        path: the folder.
        overwrite: whether it may be replaced.
        inputs: what the command reads; None where an option was not given. None of it may lie in the folder.
        replaced: what --overwrite would replace.

    Raises:
        OutputError: it holds something and may not be replaced, is a file, is or holds the working or home folder or an
            input, or its parent is not writable.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"A folder should be written to '{path}', but a file of that name exists. Name another one.")
    check_spares(path, [each for each in inputs if each is not None])
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise OutputError(
            f"The output folder '{path}' exists and is not empty. Name another one, or add --overwrite to replace "
            f"{replaced}."
        )
    check_writable(path.absolute().parent)


def check_writable(folder: Path) -> None:
    """Check that files can be made in a folder, or in the nearest one above it that exists.

    Raises:
        OutputError: they cannot.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"'{folder}' is a file, but the output needs a folder there. Name another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder '{folder}' is not writable. Name another place or change its permissions.")


def check_format(path: Path, grid: Volume) -> None:
    """Check, before long work, that a file of this name can hold images on a grid.

    Raises:
        OutputError: the suffix is unknown, or it is a NIfTI file and the grid is sheared.
    """
    from CrossModalSegLib.io.image_io import check_suffix, fits_nifti

    check_suffix(path)
    if path.name.endswith((".nii", ".nii.gz")) and not fits_nifti(grid):
        raise OutputError(
            f"'{path}' cannot hold this image: its axes are sheared, as of a tilted gantry. Name a .nrrd or .mha file."
        )


def model_paths(folder_or_name: str | None) -> list[Path]:
    """Where a model lies, as an input to spare; nothing where none was named or there is none."""
    if folder_or_name is None:
        return []
    if Path(folder_or_name).is_dir():
        return [Path(folder_or_name)]
    from CrossModalSegLib.inference.model_folder import find_model

    try:
        return [find_model(folder_or_name)]
    except ModelError:  # which loading it will say
        return []
