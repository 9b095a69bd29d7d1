"""The dispatcher: overview, help, exit codes, sentences instead of tracebacks."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_support import run

from CrossModalSegLib import __version__
from CrossModalSegLib.cli import scribble
from CrossModalSegLib.cli.commands import COMMANDS, Command
from CrossModalSegLib.cli.console import notes_on_stderr
from CrossModalSegLib.cli.main import parse
from CrossModalSegLib.errors import Cancelled, GeometryError

by_name = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name.replace(" ", "-"))


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, "--help")
    assert result.code == 0
    assert all(f"  {command.name} " in result.out for command in COMMANDS)


def test_overview_is_quick_and_without_torch() -> None:
    code = (
        "import sys; from CrossModalSegLib.cli.main import main; main(['--help']); "
        "heavy = {'torch', 'monai', 'SimpleITK', 'scipy', 'numpy', 'tyro'} & set(sys.modules); "
        "sys.exit(str(heavy or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_module_and_script_are_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "CrossModalSegLib", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"crossmodalseg {__version__}\n"


@by_name
def test_help_describes_and_gives_an_example(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, *command.words, "--help")
    assert result.code == 0
    assert f"usage: crossmodalseg {command.name}" in result.out
    assert f"example:\n  crossmodalseg {command.name}" in result.out


@by_name
def test_every_option_is_described(command: Command) -> None:
    import dataclasses
    import importlib
    import inspect

    module = importlib.import_module(f"CrossModalSegLib.cli.{command.module}")
    for field in dataclasses.fields(module.Arguments):
        assert f"    {field.name}: " in inspect.getdoc(module.Arguments), field.name


@by_name
def test_example_is_accepted(command: Command) -> None:
    import importlib

    example = importlib.import_module(f"CrossModalSegLib.cli.{command.module}").EXAMPLE
    words = shlex.split(example)
    assert words[: len(command.words) + 1] == ["crossmodalseg", *command.words]
    parse(command, words[len(command.words) + 1 :])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a command: demo, simulate"),
        (["simulat"], "There is no command 'simulat'. Did you mean 'simulate'?"),
        (["model"], "`crossmodalseg model` needs a command: list, info, export, import"),
        (["train", "unet"], "There is no command 'unet'. Did you mean 'cmfnet'?"),
    ],
)
def test_unknown_commands_are_explained(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, *words)
    assert result.code == 2
    assert message in result.err


def test_help_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, "model", "--help")
    assert result.code == 0
    assert "model export" in result.out
    assert "demo" not in result.out


@pytest.mark.parametrize(
    "words",
    [
        ["scribble", "--mask", "m.nii.gz"],
        ["scribble", "--mask", "m.nii.gz", "--out", "s.nii.gz", "--method", "magic"],
        ["scribble", "--mask", "m.nii.gz", "--out", "s.nii.gz", "--every", "often"],
        ["simulate", "--out", "x", "--cases", "2", "--bogus"],
    ],
)
def test_wrong_arguments_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, *words)
    assert result.code == 2
    assert result.err
    assert not result.out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (GeometryError("The grids\ndiffer."), 2, "error: The grids differ.\n"),
        (Cancelled("The work was stopped."), 130, "error: The work was stopped.\n"),
        (KeyboardInterrupt(), 130, "error: stopped on request; nothing half-written was left.\n"),
        (OSError(errno.ENOSPC, "No space left", "a b"), 2, "error: No space is left to write 'a b'."),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: Access to '/x' was refused."),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), 2, "error: There is no file or folder '/x'."),
        (OSError(errno.EIO, "Input/output error", "/x"), 2, "error: '/x' cannot be read or written: Input/output"),
        (MemoryError("20 GiB"), 2, "error: There is not enough memory for this (20 GiB)."),
    ],
)
def test_errors_become_sentences(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(scribble, "run", fail)
    result = run(capsys, "scribble", "--mask", "m.nii.gz", "--out", "s.nii.gz")
    assert result.code == code
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1


def test_the_worker_is_found_but_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "worker" not in run(capsys, "--help").out
    shown = run(capsys, "worker", "--help")
    assert shown.code == 0
    assert "not for people" in importlib.import_module("CrossModalSegLib.cli.worker").__doc__
    assert "standard input and output" in " ".join(shown.out.split())


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scribble, "run", fail)
    with pytest.raises(ZeroDivisionError):
        run(capsys, "scribble", "--mask", "m.nii.gz", "--out", "s.nii.gz")


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX systems")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_stopping_leaves_nothing_half_written(number: int, code: int, tmp_path: Path) -> None:
    words = ["simulate", "--out", str(tmp_path / "cohort"), "--cases", "500", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "CrossModalSegLib", *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()), "the command should write into a temporary folder while it works"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.startswith("error: stopped")
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_lightning_stays_silent_though_it_turns_itself_up_when_imported() -> None:
    with notes_on_stderr():
        for name in ("lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.INFO)
            assert not logging.getLogger(f"{name}.utilities.rank_zero").isEnabledFor(logging.WARNING)
