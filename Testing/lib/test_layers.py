"""Imports go down only, and the foundation comes without torch and quickly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2] / "CrossModalSegLib"
FOUNDATION = ("errors", "terminology", "volume", "placement", "labels", "cohort", "config", "output", "progress", "io")
HEAVY = ("torch", "monai", "lightning", "scipy", "matplotlib", "tqdm", "safetensors", "tyro", "vtk", "slicer")


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def import_all() -> str:
    return "import " + ", ".join(f"CrossModalSegLib.{name}" for name in FOUNDATION)


def test_the_foundation_imports_nothing_heavy():
    code = f"import sys\n{import_all()}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    assert run(code).split() == []


def test_the_workers_client_imports_nothing_heavy():
    heavy = (*HEAVY, "psutil")
    code = f"import sys, CrossModalSegLib.worker.client\nprint(*[name for name in {heavy} if name in sys.modules])"
    assert run(code).split() == []


def test_the_workers_client_imports_quickly():
    """Beyond numpy and SimpleITK, at most 0.1 s where nothing else runs; others may share the machine."""
    timed = "start = time.process_time()\nimport CrossModalSegLib.worker.client\nprint(time.process_time() - start)"
    assert min(float(run(f"import time, numpy, SimpleITK\n{timed}")) for _ in range(5)) < 0.2


def test_the_foundation_imports_quickly():
    """Beyond numpy and SimpleITK, at most 0.3 s: the best of three, since other work may share the machine."""
    timed = f"start = time.process_time()\n{import_all()}\nprint(time.process_time() - start)"
    code = f"import time, numpy, SimpleITK\n{timed}"
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_importing_sets_nothing_up():
    code = (
        "import logging, os, warnings, numpy, SimpleITK\n"
        "before = dict(os.environ), list(logging.root.handlers), list(warnings.filters), os.getcwd()\n"
        f"{import_all()}\n"
        "assert before == (dict(os.environ), list(logging.root.handlers), list(warnings.filters), os.getcwd())"
    )
    run(code)


def test_imports_go_down_only():
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    script = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    result = subprocess.run(
        [sys.executable, "-c", script, "--config", str(PROJECT / "pyproject.toml"), "--no-cache"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        cwd=PROJECT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout
