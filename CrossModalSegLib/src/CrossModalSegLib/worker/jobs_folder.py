"""The private folder in which client and worker exchange arrays."""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from CrossModalSegLib.worker.messages import JOB_PATTERN
from CrossModalSegLib.worker.processes import created, is_alive

PREFIX = "crossmodalseg-jobs-"
OWNER_FILE = "owner.json"
_YOUNG_SECONDS = 600.0  # a folder without an owner may be one that is being made


class JobsFolder:
    """A folder that only this user can enter, with a folder for each job.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        """Take a folder that exists; see `make_jobs_folder`."""
        self.path = path
        self._is_removed = False

    def of(self, job: str) -> Path:
        """The folder of a job, whether it exists or not."""
        return self.path / job

    def make(self, job: str) -> Path:
        """The folder of a job, made if it is missing.

        Raises:
            OSError: it cannot be made.
        """
        # Systems clean their folders of temporary files after days, though a program may still use what is there.
        if not self._is_removed and not (self.path / OWNER_FILE).exists():
            self._restore()
        folder = self.of(job)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def discard(self, job: str) -> None:
        """Delete the folder of a job."""
        _delete(self.of(job))

    def remove(self) -> None:
        """Delete all of it; a folder that is not one of ours is left alone."""
        self._is_removed = True
        if not self.is_ours:
            return
        for each in self.path.iterdir():
            if JOB_PATTERN.fullmatch(each.name) and not each.is_symlink():
                _delete(each)
        with suppress(OSError):
            (self.path / OWNER_FILE).unlink(missing_ok=True)
            self.path.rmdir()

    def _restore(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.is_ours:
            raise PermissionError(errno.EACCES, "it belongs to someone else", str(self.path))
        _sign(self.path)

    @property
    def is_ours(self) -> bool:
        """Whether it looks like a folder that `make_jobs_folder` made for this user."""
        if not self.path.name.startswith(PREFIX) or self.path.is_symlink() or not self.path.is_dir():
            return False
        return not hasattr(os, "getuid") or self.path.stat().st_uid == os.getuid()

    @property
    def is_stale(self) -> bool:
        """Whether the program that made it is gone."""
        if not self.is_ours:
            return False
        try:
            owner = json.loads((self.path / OWNER_FILE).read_text(encoding="utf-8"))
            return not is_alive(int(owner["pid"]), float(owner["created"]))
        except (OSError, ValueError, KeyError, TypeError):
            return time.time() - self.path.stat().st_mtime > _YOUNG_SECONDS


def make_jobs_folder(base: Path | None = None) -> JobsFolder:
    """Make a private folder with a random name, and delete those of programs that are gone.

    Args:
        base: where; None takes the system's folder for temporary files.

    Raises:
        OSError: it cannot be made.
    """
    import tempfile  # here and below, so that the client is imported quickly

    base = Path(tempfile.gettempdir() if base is None else base)
    base.mkdir(parents=True, exist_ok=True)
    remove_stale(base)
    folder = JobsFolder(Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)).resolve())
    _sign(folder.path)
    return folder


def remove_stale(base: Path) -> None:
    """Delete the folders of programs that are gone."""
    for path in base.glob(f"{PREFIX}*"):
        folder = JobsFolder(path)
        with suppress(OSError):  # another program may be deleting it as well
            if folder.is_stale:
                folder.remove()


def _sign(folder: Path) -> None:
    """Say which program a folder belongs to."""
    owner = {"pid": os.getpid(), "created": created(os.getpid())}
    (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")


def _delete(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
