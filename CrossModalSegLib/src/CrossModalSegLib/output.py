"""Outputs that appear complete or not at all.

Everything is written under a temporary name beside its final place, flushed to the disk, and renamed. The temporary
name says whose it is, so that what a killed program left can be told from what another one is writing.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import OutputError, TakenError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_BLOCKED = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_LONGEST_NAME = 255  # bytes
_NO_TEXT = "it holds bytes that are no text in UTF-8"
_TEMPORARY = re.compile(r"\.(?:partial|old)-[0-9a-f]{8}(?:\.([0-9a-f]{8})\.([0-9a-f]+))?-(.+)", re.DOTALL)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffixes of `path` (".seg.nrrd", ".nii.gz"), by which writers choose their format.
    Missing parent folders are made, and taken away again on failure. An existing file stays as it was on failure.

    Args:
        path: where the file shall be.

    Yields:
        The path to write to.

    Raises:
        OutputError: the folder cannot be written to, no space is left, or the block wrote nothing.
    """
    path = Path(path)
    if _kind(path) == "folder":
        raise OutputError(f"A file should be written to '{path}', but a folder of that name exists; name a file.")
    temporary = _temporary(path)
    made: list[Path] = []
    try:
        made = _make_folders(path.parent)
        _check_writable(path.parent)
        yield temporary
        if not temporary.is_file():
            raise OutputError(f"Nothing was written for '{final_place(path)}'.")
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _remove_empty(made)
        if isinstance(error, OSError) and _is_about_writing(error, temporary, path):
            raise _output_error(error, path) from error
        raise


@contextmanager
def atomic_folder(path: str | Path, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block ends well.

    Temporary folders of programs of this machine that were killed are deleted there.

    Args:
        path: where the folder shall be. An empty folder of that name is replaced.
        overwrite: whether a folder with content may be replaced, as a whole.
        inputs: files and folders that must not go with what is replaced.

    Yields:
        The folder to write into.

    Raises:
        OutputError: `path` is a file, or a folder with content and `overwrite` is false, or holds the working or the
            home folder or one of the inputs; or the place cannot be written to, or no space is left.
    """
    path = Path(path)
    _check_replaceable(path, overwrite)
    check_spares(path, inputs)
    target = path.absolute()
    temporary = _temporary(target)
    made: list[Path] = []
    try:
        made = _make_folders(target.parent)
        _check_writable(target.parent)
        _remove_left(target.parent)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _flush(file)
        _swap_folder(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)
        if isinstance(error, OSError) and _is_about_writing(error, temporary, target):
            raise _output_error(error, path) from error
        raise


def final_name(name: str) -> str | None:
    """What a temporary file or folder of this name was to be called; None where it is none of ours."""
    found = _TEMPORARY.fullmatch(name)
    return found and found[3]


def final_place(path: str | Path) -> Path:
    """Where something will be that is written now, also inside of a temporary folder: to be told to a person."""
    path = Path(path)
    return Path(*(final_name(part) or part for part in path.parts))


def is_text(path: str | Path) -> bool:
    """Whether a path is text: names in the encodings of old systems are not, and ITK ends the process at them."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_spares(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that nothing dear goes when `path` is replaced as a whole, and that it has a usable name.

    Args:
        path: a file or folder to write, which may exist.
        inputs: files and folders that are still needed; links count where they stand and where they lead to.

    Raises:
        OutputError: `path` is or holds the working or the home folder, or one of the inputs, or is no text.
    """
    path = Path(path)
    if not is_text(path.absolute()):
        raise OutputError(f"Nothing can be written to {str(path.absolute())!r} ({_NO_TEXT}); name another place.")
    if path.is_dir() and any(_is_within(folder, path) for folder in _kept_folders()):
        raise OutputError(f"The folder '{path}' is or holds the working or home folder; name a new folder.")
    if path.name in ("", ".."):
        raise OutputError(f"'{path}' has no name of its own; name a new folder.")
    for each in map(Path, inputs):
        if _is_within(each, path) or _is_within(each.absolute().parent, path):  # a link goes as well
            raise OutputError(f"Writing '{path}' would take away the input '{each}'; name another place.")


def write_json(obj: object, path: str | Path) -> None:
    """Write `obj` as strict JSON, UTF-8, indented by two spaces.

    Dataclasses become objects, tuples and arrays become lists, paths become strings, NumPy numbers become numbers.
    NaN and infinities, which JSON cannot hold, become null.

    Args:
        obj: what to write.
        path: the file.

    Raises:
        OutputError: `obj` holds something that JSON cannot, or the file cannot be written.
    """
    text = json.dumps(_jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _jsonable(obj: object) -> object:
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: _jsonable(getattr(obj, field.name)) for field in dataclasses.fields(obj)}
    if isinstance(obj, dict):
        return {str(key): _jsonable(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple, set, frozenset)):
        return [_jsonable(value) for value in obj]
    if isinstance(obj, (np.ndarray, np.generic)):
        return _jsonable(obj.tolist())
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if obj is None or isinstance(obj, (str, int)):
        return obj
    raise OutputError(f"A value of type {type(obj).__name__} cannot be written as JSON; pass numbers, text or lists.")


def _temporary(path: Path) -> Path:
    return _hidden(path, f".partial-{secrets.token_hex(4)}.{_machine()}.{os.getpid():x}-")


def _hidden(path: Path, start: str) -> Path:
    """A name beside `path` that ends like it, by which writers choose their format, and is not too long."""
    name = path.name.encode("utf-8", "replace")[len(start) - _LONGEST_NAME :]
    return path.with_name(start + name.decode("utf-8", "ignore"))


@cache
def _machine() -> str:
    """Tells this machine from others that write to the same network drive."""
    import hashlib  # here, since most programs that import this never write
    import platform
    import uuid

    return hashlib.sha256(f"{platform.node()} {uuid.getnode()}".encode()).hexdigest()[:8]


def _remove_left(folder: Path) -> None:
    """Delete the temporary folders of programs of this machine and user that are gone."""
    for path in folder.glob(".partial-*"):
        with suppress(OSError):  # another program may be deleting it as well
            if _is_left(path):
                shutil.rmtree(path)


def _is_left(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if not found or found[1] != _machine() or path.is_symlink() or not path.is_dir():
        return False
    if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
        return False
    try:
        import psutil  # here, since panels import this where it is not installed yet
    except ImportError:
        return False
    return not psutil.pid_exists(int(found[2], 16))


def _kept_folders() -> list[Path]:
    """The working and the home folder, where there are such."""
    kept = []
    for find in (Path.cwd, Path.home):
        with suppress(OSError, RuntimeError):  # it was deleted, or the user has none
            kept.append(find())
    return kept


def _is_within(place: Path, folder: Path) -> bool:
    """Whether a place is `folder` or lies in it, whatever names and links lead there."""
    place, folder = (Path(os.path.realpath(each)) for each in (place, folder))  # unlike resolve(), of link loops, too
    if place.is_relative_to(folder):
        return True
    # Names that differ in case only may be the same.
    return folder.exists() and any(each.exists() and each.samefile(folder) for each in (place, *place.parents))


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder` and its parents; return those that were missing, the deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _check_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _kind(path: Path) -> Literal["nothing", "file", "folder"]:
    """What stands at a path that shall be written."""
    try:
        if "\0" in str(path):
            raise ValueError("the name holds a null character")
        if not is_text(path):
            raise ValueError(_NO_TEXT)
        return "folder" if path.is_dir() else "file" if path.exists() else "nothing"
    except (OSError, ValueError) as error:  # a name that is too long, or inside of a locked folder
        raise OutputError(f"Nothing can be written to {str(path)!r} ({error}); name another place.") from error


def _check_replaceable(path: Path, overwrite: bool) -> None:
    kind = _kind(path)
    if kind == "nothing":
        return
    if kind == "file":
        raise OutputError(f"The folder '{path}' should be written, but a file of that name exists; name another one.")
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise TakenError(
            f"The output folder '{path}' exists and is not empty; name another one, empty it, or ask to overwrite it.",
            path,
        )


def _swap_folder(temporary: Path, target: Path) -> None:
    """Put `temporary` in the place of `target`; the old content goes only once the new one stands."""
    if not target.exists():
        os.rename(temporary, target)
        return
    old = _hidden(target, f".old-{secrets.token_hex(4)}-")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    if old.is_symlink():
        old.unlink()  # what it leads to stays
    else:
        shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Ask the system to bring a file, or a folder's entries, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle on folders, and renames there are journalled.
    flags = os.O_RDONLY if os.name != "nt" else os.O_RDWR
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no fsync
            raise
    finally:
        os.close(handle)


def _is_about_writing(error: OSError, temporary: Path, path: Path) -> bool:
    """Whether an error arose from this output rather than from something that the block read."""
    if error.errno in _DISK_FULL or error.errno in {errno.EROFS, errno.EIO}:
        return True
    places = (temporary, path, path.parent, *path.parents)
    names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, os.PathLike))]
    return any(Path(name) in places or temporary in Path(name).parents for name in names)


def _output_error(error: OSError, path: Path) -> OutputError:
    path = final_place(path)
    if error.errno in _DISK_FULL:
        return OutputError(f"No space is left to write '{path}'; free some space or name another disk.")
    if error.errno in _NOT_WRITABLE:
        return OutputError(f"'{path}' cannot be written: '{path.parent}' is not writable; name another folder.")
    if error.errno in _BLOCKED:
        return OutputError(f"'{path}' cannot be written: a file stands where a folder is needed; name another folder.")
    return OutputError(f"'{path}' cannot be written ({error.strerror or error}); name another place.")
