"""What the commands show: text on standard output; notes, progress and errors on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from CrossModalSegLib.progress import Progress, SilentProgress, TqdmProgress

# Importing Lightning sets the levels of "lightning.fabric" and "lightning.pytorch", so the loggers below them count.
_NOISY = (
    "lightning",
    "lightning.fabric",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.utilities.rank_zero",
    "pytorch_lightning",
    "monai",
    "matplotlib",
    "torch",
)


def say(text: str = "") -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write an error to standard error, on one line."""
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A bar with the remaining time on standard error, or silence."""
    if quiet:
        yield SilentProgress()
        return
    with TqdmProgress() as bar:
        yield bar


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Show the library's warnings as lines of their own, and keep other packages' chatter away."""
    handler = _LineHandler(logging.WARNING)
    handler.setFormatter(_NoteFormatter())
    logger = logging.getLogger("CrossModalSegLib")
    previous = {name: logging.getLogger(name).level for name in _NOISY}
    logger.addHandler(handler)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        for name, level in previous.items():
            logging.getLogger(name).setLevel(level)


class _LineHandler(logging.Handler):
    """Writes above a running bar rather than into it."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        tqdm = sys.modules.get("tqdm")
        if tqdm is None:
            sys.stderr.write(f"{text}\n")
        else:
            tqdm.tqdm.write(text, file=sys.stderr)


class _NoteFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind = "warning" if record.levelno >= logging.WARNING else "note"
        return f"{kind}: {' '.join(record.getMessage().split())}"
