"""The command `crossmodalseg`: find the command, read its arguments, run it, turn errors into sentences.

Exit codes: 0 done, 1 `doctor` found something wrong or some cases of `segment --cohort` failed, 2 wrong arguments or
inputs, 130 stopped by Ctrl-C, 143 by the system.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType, ModuleType

from CrossModalSegLib import __version__
from CrossModalSegLib.cli.commands import COMMANDS, HIDDEN, Command
from CrossModalSegLib.cli.console import complain, notes_on_stderr, say
from CrossModalSegLib.cli.failures import TERMINATED, USAGE, failure_of

PROGRAM = "crossmodalseg"
_HELP = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what follows `crossmodalseg`; None takes the process's own arguments.

    Returns:
        The exit code.
    """
    _never_fail_on_characters()
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        say(f"{PROGRAM} {__version__}")
        return 0
    command = _find(words)
    if command is None:
        return _overview(words)
    return _run(command, words[len(command.words) :])


def parse(command: Command, words: Sequence[str]) -> object:
    """Read the arguments of a command.

    Raises:
        SystemExit: after showing help (0), or what is wrong with them (2).
    """
    module = _module(command)
    import tyro

    return tyro.cli(
        module.Arguments,
        prog=f"{PROGRAM} {command.name}",
        args=list(words),
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _run(command: Command, words: list[str]) -> int:
    try:
        with _quiet_third_parties(), notes_on_stderr(), _terminated_like_interrupted():
            arguments = _parse_with_example(command, words)
            return _module(command).run(arguments) or 0
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else USAGE
    except _Terminated:
        complain("stopped by the system; nothing half-written was left.")
        return TERMINATED
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        failure = failure_of(error)
        if failure is None:
            raise
        complain(failure.sentence)
        return failure.code


def _parse_with_example(command: Command, words: list[str]) -> object:
    try:
        return parse(command, words)
    except SystemExit as ending:
        if not ending.code:
            say(f"\nexample:\n  {_module(command).EXAMPLE}")
        raise


def _module(command: Command) -> ModuleType:
    return importlib.import_module(f"CrossModalSegLib.cli.{command.module}")


def _find(words: list[str]) -> Command | None:
    return next((each for each in (*COMMANDS, *HIDDEN) if tuple(words[: len(each.words)]) == each.words), None)


def _overview(words: list[str]) -> int:
    """Help, or what is wrong with the words: shown where no command was found."""
    group = [each for each in COMMANDS if words and len(each.words) > 1 and each.words[0] == words[0]]
    asked = words[1:] if group else words
    if asked and asked[0] in _HELP:
        say(_help_text(group or COMMANDS))
        return 0
    known = [each.words[1] for each in group] or list(dict.fromkeys(each.words[0] for each in COMMANDS))
    complain(_unknown_command(asked, known, words[0] if group else None))
    if not asked:
        sys.stderr.write(_help_text(group or COMMANDS) + "\n")
    return USAGE


def _unknown_command(asked: list[str], known: list[str], group: str | None) -> str:
    prefix = f"{PROGRAM} {group}" if group else PROGRAM
    if not asked:
        return f"`{prefix}` needs a command: {', '.join(known)}."
    near = difflib.get_close_matches(asked[0], known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"There is no command '{asked[0]}'.{hint} `{prefix}` has {', '.join(known)}."


def _help_text(commands: Sequence[Command]) -> str:
    width = max(len(each.name) for each in commands)
    lines = [f"  {each.name.ljust(width)}  {each.summary}" for each in commands]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [options]",
            "",
            "Segmentation of CT and MR volumes from a few scribbles.",
            "",
            "commands:",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` describes the options of a command and gives an example;",
            f"`{PROGRAM} --version` names the version.",
        ]
    )


class _Terminated(BaseException):
    """The system asked the process to end (SIGTERM)."""


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that temporary files are taken away."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _quiet_third_parties() -> Iterator[None]:
    """Python warnings are for developers; the library speaks to users through its log."""
    with warnings.catch_warnings():
        if not sys.warnoptions and "pytest" not in sys.modules:
            warnings.simplefilter("ignore")
        yield


def _never_fail_on_characters() -> None:
    """A console that lacks a character shows another one instead of ending the work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
