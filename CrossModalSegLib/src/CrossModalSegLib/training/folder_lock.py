"""A lock on a folder: a file in it that the system itself locks, and frees however the process ends that held it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOCK = "in-use"
_HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK, errno.EWOULDBLOCK}


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; yields whether it was free.

    The folder is made where it is missing, and goes afterwards if nothing else is in it. On disks that know no locks,
    as some network disks do, it is always free.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    stream = _open_locked(folder)
    try:
        yield stream is not None
    finally:
        if stream is not None:
            _give_back(stream, folder)


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of a folder."""
    try:
        with (folder / LOCK).open("r+b") as stream:
            return not _lock(stream)
    except OSError:  # there is none, or it is not ours to open
        return False


def _open_locked(folder: Path) -> BinaryIO | None:
    """The locked file; None where another process has locked it."""
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stream = path.open("ab")
        except FileNotFoundError:  # who held it has just removed the folder
            continue
        if not _lock(stream):
            stream.close()
            return None
        if _is_at(path, stream):
            break
        stream.close()
    if hasattr(os, "register_at_fork"):  # a process that makes batches must not hold it when this one is killed
        os.register_at_fork(after_in_child=stream.close)
    return stream


def _give_back(stream: BinaryIO, folder: Path) -> None:
    if os.name == "nt":  # where open files cannot be removed
        stream.close()
    with suppress(OSError):
        (folder / LOCK).unlink()
    stream.close()
    with suppress(OSError):
        folder.rmdir()


def _lock(stream: BinaryIO) -> bool:
    """Lock an open file; False where another process has it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True


def _is_at(path: Path, stream: BinaryIO) -> bool:
    """Whether an open file is still the one of this path."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
