"""Checks of outputs before long work begins."""

from __future__ import annotations

import os
from pathlib import Path

from CrossModalSegLib.errors import OutputError


def check_new_file(path: Path, overwrite: bool) -> None:
    """Check that a file can be written.

    Raises:
        OutputError: it exists and may not be replaced, is a folder, or its folder is not writable.
    """
    if path.is_dir():
        raise OutputError(f"A file should be written to '{path}', but a folder of that name exists. Name a file.")
    if path.exists() and not overwrite:
        raise OutputError(f"The output '{path}' exists. Name another file, or add --overwrite to replace it.")
    check_writable(path.absolute().parent)


def check_new_folder(path: Path, overwrite: bool) -> None:
    """Check that a folder can be written as a whole.

    Raises:
        OutputError: it holds something and may not be replaced, is a file, or its parent is not writable.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"A folder should be written to '{path}', but a file of that name exists. Name another one.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise OutputError(
            f"The output folder '{path}' exists and is not empty. Name another one, or add --overwrite to replace all "
            "of it."
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
