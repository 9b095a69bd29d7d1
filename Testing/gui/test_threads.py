"""Threads go on, although Qt's event loop keeps Python's lock in 3D Slicer; here a C function keeps it."""

from __future__ import annotations

import ctypes
import importlib
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")
pytest.importorskip("PySide6.QtWidgets", reason="Qt's system libraries are missing", exc_type=ImportError)

STEPS = 60


@pytest.fixture
def panel_code(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent / "standins"))
    importlib.import_module("qt")  # before slicer.util
    importlib.import_module("slicer_python").install()
    names = ("environment_step", "functions")
    return SimpleNamespace(**{name: importlib.import_module(f"CrossModalSegPanel.{name}") for name in names})


def polls_of_an_installation(code: SimpleNamespace, _monkeypatch: pytest.MonkeyPatch):
    step = SimpleNamespace(_installation=SimpleNamespace(poll=list, has_ended=False))
    return lambda: code.environment_step.EnvironmentStep._poll(step)


def polls_of_the_worker(code: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    workflow = SimpleNamespace(client=SimpleNamespace(poll=list, jobs=(1,)))
    monkeypatch.setattr(code.functions.NodeFunctions, "_workflow", workflow)
    return code.functions._poll_shared


@pytest.mark.skipif(os.name == "nt", reason="keeps the lock by a function of POSIX")
@pytest.mark.parametrize("polls", [polls_of_an_installation, polls_of_the_worker])
def test_a_thread_does_more_than_a_step_a_poll(monkeypatch: pytest.MonkeyPatch, panel_code, polls) -> None:
    poll = polls(panel_code, monkeypatch)
    event_loop = ctypes.PyDLL(None).usleep
    ended = threading.Event()

    def steps() -> None:
        for _ in range(STEPS):
            time.sleep(0.001)  # gives the lock away, as a disk or a pipe that is waited for
        ended.set()

    threading.Thread(target=steps, daemon=True).start()
    count = 0
    while not ended.is_set() and count < STEPS:
        event_loop(20_000)
        poll()
        count += 1
    assert count < STEPS // 3
