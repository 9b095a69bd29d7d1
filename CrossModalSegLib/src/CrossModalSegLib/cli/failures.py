"""From an exception to a sentence and an exit code."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from CrossModalSegLib.errors import Cancelled, CrossModalSegError

USAGE = 2
STOPPED = 130
TERMINATED = 143


@dataclass(frozen=True)
class Failure:
    """How a command ended: a sentence for the person, and the exit code."""

    sentence: str
    code: int


def failure_of(error: BaseException) -> Failure | None:
    """The sentence for an error that a person can do something about, None for a defect of the program."""
    if isinstance(error, Cancelled):
        return Failure(str(error), STOPPED)
    if isinstance(error, KeyboardInterrupt):
        return Failure("stopped on request; nothing half-written was left.", STOPPED)
    if isinstance(error, CrossModalSegError):
        return Failure(str(error), USAGE)
    if _is_out_of_memory(error):
        return Failure(
            f"There is not enough memory for this ({error or 'no more was said'}). Close other programs, compute on "
            "the CPU instead of a GPU, or use smaller images.",
            USAGE,
        )
    if isinstance(error, OSError):
        return Failure(_about_files(error), USAGE)
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    from CrossModalSegLib.inference.memory import is_out_of_memory  # imports torch, so only where it matters

    return is_out_of_memory(error)


def _about_files(error: OSError) -> str:
    where = f"'{error.filename}'" if error.filename else "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"No space is left to write {where}. Free some space or choose another disk."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"Access to {where} was refused. Change its permissions or choose another place."
    if error.errno == errno.ENOENT:
        return f"There is no file or folder {where}. Check the path."
    if error.errno == errno.EMFILE:
        return "Too many files are open at once. Raise the limit (ulimit -n) and try again."
    return f"{where} cannot be read or written: {error.strerror or error}."
