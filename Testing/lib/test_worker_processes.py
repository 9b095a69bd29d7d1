from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from CrossModalSegLib.worker.processes import created, end_children, end_tree, is_alive, watched

# A launcher that starts a child of its own, says its number, and waits or ends.
LAUNCHER = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600 if sys.argv[1] == 'wait' else 0)\n"
)


def launch(mode: str) -> tuple[subprocess.Popen, int]:
    session = {"start_new_session": True} if os.name == "posix" else {}
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER, mode], stdout=subprocess.PIPE, text=True, **session)
    child = int(process.stdout.readline())
    process.stdout.close()
    return process, child


def is_gone(pid: int) -> bool:
    for _ in range(100):
        if created(pid) is None:
            return True
        time.sleep(0.02)
    return False


def test_this_process_is_alive():
    began = created(os.getpid())
    assert is_alive(os.getpid(), began)
    assert not is_alive(os.getpid(), began - 100)


def test_a_process_that_ended_is_not_alive_even_before_anyone_looked():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = created(process.pid)
    assert is_alive(process.pid, began)
    process.stdin.write(b"\n")
    process.stdin.close()
    assert is_gone(process.pid)  # a zombie on POSIX
    assert not is_alive(process.pid, began)
    process.wait()


def test_setting_the_clock_ends_no_process(monkeypatch: pytest.MonkeyPatch):
    """As after a laptop slept: the time that a process began is told by the clock of now."""
    began = created(os.getpid())
    is_there = watched(os.getpid(), began)
    true_boot_time = psutil._psplatform.boot_time
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: true_boot_time() + 3.0)
    assert is_there()
    if psutil.LINUX:
        assert is_alive(os.getpid(), began)


def test_a_process_is_watched_until_it_ends():
    process, child = launch("wait")
    is_there = watched(child, created(child))
    assert is_there()
    assert not watched(child, created(child) - 100)()
    end_tree(process.pid)
    process.wait(5)
    assert is_gone(child) and not is_there()
    assert not watched(child, 5.0)()


@pytest.mark.parametrize("mode", ["wait", "end"])
def test_a_launcher_ends_with_what_it_launched(mode: str):
    process, child = launch(mode)
    if mode == "end":
        process.wait()
    assert created(child) is not None
    end_tree(process.pid)
    process.wait(5)
    assert is_gone(child)


def test_ending_twice_is_no_error():
    process, _ = launch("wait")
    end_tree(process.pid)
    process.wait(5)
    end_tree(process.pid)


def test_children_end_and_their_parent_stays():
    process, child = launch("wait")
    end_children(process.pid)
    assert is_gone(child)
    assert process.poll() is None
    end_tree(process.pid)
    process.wait(5)
