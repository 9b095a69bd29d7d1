"""Telling how far long work has come, stopping it, and letting it stand still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from .errors import Cancelled


class Progress(Protocol):
    """What long work calls after each step."""

    def __call__(self, done: int, total: int, message: str = "", values: Mapping[str, float] | None = None) -> None:
        """Report a step.

        Args:
            done: steps finished so far.
            total: steps in all; 0 when unknown.
            message: what is being done.
            values: figures worth showing, such as {"loss": 0.3}.
        """


class SilentProgress:
    """Shows nothing."""

    def __call__(self, done: int, total: int, message: str = "", values: Mapping[str, float] | None = None) -> None:
        """Do nothing."""


class TqdmProgress:
    """A bar with the remaining time, on standard error; a new message starts a new bar."""

    def __init__(self) -> None:
        self._bar = None
        self._message: str | None = None

    def __call__(self, done: int, total: int, message: str = "", values: Mapping[str, float] | None = None) -> None:
        """Show a step; see `Progress`."""
        if self._bar is None and message == self._message and total and done >= total:
            return  # the end was told before
        if self._bar is None or message != self._message or done < self._bar.n:
            self._restart(total, message)
        self._bar.total = total or None
        if values:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
        self._bar.update(done - self._bar.n)
        if total and done >= total:
            self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def __enter__(self) -> TqdmProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _restart(self, total: int, message: str) -> None:
        from tqdm import tqdm  # here, so that importing the library stays quick

        self.close()
        self._message = message
        self._bar = tqdm(total=total or None, desc=message or None, dynamic_ncols=True)


class CancelToken:
    """A wish to stop, set from any thread and looked at between steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether someone asked."""
        return self._event.is_set()

    def clock(self) -> float:
        """Seconds of work since some moment; time during which the work stood still does not count."""
        return time.monotonic()

    def raise_if_cancelled(self) -> None:
        """End the work here if someone asked.

        Raises:
            Cancelled: someone asked.
        """
        if self.cancelled:
            raise Cancelled("The work was stopped on request; nothing half-written was left.")


class PausableToken(CancelToken):
    """A cancel token at which work can also stand still: to look at it waits while a pause is wished for.

    Only the thread that works looks at `cancelled`; any thread may ask for a pause, its end, or to stop.
    """

    def __init__(self, on_pause: Callable[[bool], None] | None = None) -> None:
        """Begin without a pause.

        Args:
            on_pause: called in the working thread with true when it begins to stand still, and with false after it.
        """
        super().__init__()
        self._on_pause = on_pause or (lambda _stands: None)
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._paused_seconds = 0.0

    def cancel(self) -> None:
        """Ask the work to stop, also where it stands still."""
        super().cancel()
        self._may_go_on.set()

    def pause(self) -> None:
        """Ask the work to stand still."""
        self._may_go_on.clear()

    def resume(self) -> None:
        """Let the work go on."""
        self._may_go_on.set()

    @property
    def cancelled(self) -> bool:
        """Whether someone asked to stop; waits until the end of a pause."""
        if not self._may_go_on.is_set() and not super().cancelled:
            self._stand_still()
        return super().cancelled

    def clock(self) -> float:
        """Seconds of work since some moment, without pauses."""
        return time.monotonic() - self._paused_seconds

    def _stand_still(self) -> None:
        began = time.monotonic()
        self._on_pause(True)
        self._may_go_on.wait()
        self._paused_seconds += time.monotonic() - began
        self._on_pause(False)
