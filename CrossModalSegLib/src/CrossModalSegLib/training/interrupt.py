"""Stopping between two steps, never within one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.progress import CancelToken

# Windows has no SIGHUP.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class InterruptGuard(CancelToken):
    """While it is active, Ctrl-C, the end of the terminal and the system's wish to terminate wait for the end of the
    running step.

    A weight update that is cut in two could not be continued exactly. A second Ctrl-C interrupts at once. Outside
    the main thread, where Python allows no signal handlers, only the cancel token counts.
    """

    SIGNALS = STOPPING

    def __init__(self, outer: CancelToken | None = None) -> None:
        super().__init__()
        self._outer = outer
        self._received: int | None = None
        self._previous: dict[int, object] = {}

    @property
    def cancelled(self) -> bool:
        """Whether someone asked to stop."""
        return self._received is not None or super().cancelled or (self._outer is not None and self._outer.cancelled)

    def raise_if_cancelled(self) -> None:
        """End the work here, in the way that was asked for.

        Raises:
            KeyboardInterrupt: By Ctrl-C.
            Cancelled: By a cancel token or the system.
        """
        if self.cancelled:
            self.stop()

    def stop(self) -> None:
        """End the work, as `raise_if_cancelled` does."""
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        raise Cancelled("The training was stopped on request between two steps; ask to resume to continue it.")

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):  # a program started with nohup keeps running
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number
