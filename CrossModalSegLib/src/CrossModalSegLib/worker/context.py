"""What a job is given beside its request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from CrossModalSegLib.progress import CancelToken, PausableToken
from CrossModalSegLib.worker.messages import Preview, Progress
from CrossModalSegLib.worker.store import Store

_PROGRESS_SECONDS = 0.1
_PREVIEW_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class Context:
    """A job's surroundings.

    Attributes:
        progress: tells how far it is, and ends it where it was cancelled.
        preview: shows the best answer so far.
        cancel: stops it, or lets it stand still.
        finish: ends it with its best answer.
        store: what earlier jobs left.
    """

    progress: Reporter
    preview: Callable[[Preview], None]
    cancel: PausableToken
    finish: CancelToken
    store: Store


class Reporter:
    """Sends progress, but not more often than anyone can look at it."""

    def __init__(self, send: Callable[[Progress], None], cancel: PausableToken) -> None:
        self._send, self._cancel = send, cancel
        self._message: str | None = None
        self._first = self._last = 0
        self._began = 0.0
        self._sent = -math.inf

    def __call__(self, done: int, total: int, message: str = "", values: Mapping[str, float] | None = None) -> None:
        """Report a step; see `CrossModalSegLib.progress.Progress`.

        Raises:
            Cancelled: the job was cancelled.
        """
        self._cancel.raise_if_cancelled()
        is_new = message != self._message or done < self._last
        if is_new:
            self._message, self._first, self._began = message, done, self._cancel.clock()
        self._last = done
        is_end = 0 < total <= done
        if not (is_new or is_end) and time.monotonic() - self._sent < _PROGRESS_SECONDS:
            return
        self._sent = time.monotonic()
        finite = {name: float(value) for name, value in (values or {}).items() if math.isfinite(value)}
        self._send(Progress(int(done), int(total), message, finite, self._eta(done, total)))

    def _eta(self, done: int, total: int) -> float | None:
        steps = done - self._first
        if total <= 0 or steps <= 0:
            return None
        return max(0.0, (total - done) * (self._cancel.clock() - self._began) / steps)


class Previewer:
    """Sends previews, but not one upon the other."""

    def __init__(self, send: Callable[[Preview], None]) -> None:
        self._send = send
        self._sent = -math.inf

    def __call__(self, preview: Preview) -> None:
        """Show an answer; it is left out where one was just shown."""
        if time.monotonic() - self._sent >= _PREVIEW_SECONDS:
            self._send(preview)
            self._sent = time.monotonic()
