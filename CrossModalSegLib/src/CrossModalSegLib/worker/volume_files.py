"""Volumes of a message as files in the job's folder, and back. Nothing is ever pickled."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker.messages import VolumeFile

M = TypeVar("M")
FILE_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\.npy")


def write_volumes(message: M, folder: Path, prefix: str) -> M:
    """The message with its volumes written to files.

    Args:
        message: a dataclass; volumes may be anywhere in its fields, lists, tuples and dicts.
        folder: exists.
        prefix: of the files' names; tells the messages of a job apart.

    Raises:
        OSError: a file cannot be written.
    """
    numbers = itertools.count()

    def write(value: object) -> object:
        if not isinstance(value, Volume):
            return value
        name = f"{prefix}-{next(numbers)}.npy"
        try:
            _write(folder / name, np.ascontiguousarray(value.array))
        except OSError as error:
            error.filename = str(folder)  # where there was no space
            raise
        return VolumeFile(name, tuple(tuple(row) for row in value.affine.tolist()))

    return _mapped(message, write)


def read_volumes(message: M, folder: Path) -> M:
    """The message with its volumes read from the files, which are deleted.

    Args:
        message: as it came over the wire.
        folder: of the job; nothing outside of it is read.

    Raises:
        InputError: a file is named in another way, is missing, or is not an array of numbers.
        GeometryError: an affine is not usable.
    """

    def read(value: object) -> object:
        return _read(value, folder) if isinstance(value, VolumeFile) else value

    return _mapped(message, read)


def _write(path: Path, array: np.ndarray) -> None:
    # As np.save does, but that does not say why a file could not be written.
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(array.data)


def _read(entry: VolumeFile, folder: Path) -> Volume:
    if not FILE_PATTERN.fullmatch(entry.file):
        raise InputError("A volume's file should be a plain name in the job's folder.")
    path = folder / entry.file
    if path.is_symlink():
        raise InputError("A volume's file should not be a link.")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"A volume of the message cannot be read ({type(error).__name__}).") from error
    path.unlink(missing_ok=True)
    return Volume(array, np.asarray(entry.affine))


def _mapped(value: Any, change: Callable[[object], object]) -> Any:
    """The same structure with its volumes changed."""
    if isinstance(value, (Volume, VolumeFile)):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        new = {name: _mapped(each, change) for name, each in old.items()}
        return dataclasses.replace(value, **new) if any(new[name] is not old[name] for name in new) else value
    if isinstance(value, dict):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(each, change) for each in value)
    return value
