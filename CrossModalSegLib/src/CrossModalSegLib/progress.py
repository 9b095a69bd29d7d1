"""Telling how far long work has come, and stopping it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
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

    def raise_if_cancelled(self) -> None:
        """End the work here if someone asked.

        Raises:
            Cancelled: someone asked.
        """
        if self.cancelled:
            raise Cancelled("The work was stopped on request; nothing half-written was left.")
