"""Telling processes apart, and ending one with all that it started, on every system."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

_SLACK_SECONDS = 1.0  # start times are rounded
_LOOK_SECONDS = 0.01


def created(pid: int) -> float | None:
    """When a living process began, in seconds; None where there is none.

    Since 1970, but on Linux since the system started: there, setting the clock would move the first.
    """
    import psutil  # here, so that panels can be shown where it is not installed yet

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        started = psutil.boot_time() if psutil.LINUX else 0.0
        return process.create_time() - started
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:  # of another user, so it lives
        return 0.0


def is_alive(pid: int, began: float) -> bool:
    """Whether the process that began then still lives; numbers are used again for later ones."""
    found = created(pid)
    return found is not None and (found == 0.0 or abs(found - began) <= _SLACK_SECONDS)


def watched(pid: int, began: float) -> Callable[[], bool]:
    """What tells, as often as it is asked, whether the process that began then still lives.

    Setting the clock does not mislead it: the system's own numbers are compared once only.
    """
    import psutil

    if not is_alive(pid, began):
        return lambda: False
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: False
    return lambda: _runs(process)


def end_children(pid: int, timeout: float = 1.0) -> None:
    """Kill all that a living process started, and what these started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        _kill(psutil.Process(pid).children(recursive=True), timeout)


def end_tree(pid: int, timeout: float = 1.0) -> None:
    """Kill a process that `subprocess` started in a session of its own, and all below it, even where it ended already.

    A launcher, as 3D Slicer has before its Python, would otherwise leave what it launched.
    """
    import psutil

    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        _kill([root, *root.children(recursive=True)], timeout)
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    else:
        _kill(_left_behind(pid), timeout)


def _left_behind(pid: int) -> list:
    """What a process that is gone had started: Windows leaves its number with them."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.ppid() == pid:
                found += [process, *process.children(recursive=True)]
    return found


def _kill(processes: list, timeout: float) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()
    # Not by psutil's own waiting, which would take the exit code of our children from `subprocess`.
    until = time.monotonic() + timeout
    while time.monotonic() < until and any(map(_runs, processes)):
        time.sleep(_LOOK_SECONDS)


def _runs(process: object) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
