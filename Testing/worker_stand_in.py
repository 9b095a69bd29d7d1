"""A client whose jobs do what a test says, when it says it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from CrossModalSegLib.worker.messages import Error, JobRequest, Preview, Progress


class FakeJob:
    def __init__(self, request: JobRequest | Callable[[], JobRequest], callbacks: dict[str, Any]) -> None:
        self._made, self._callbacks = request, callbacks
        self.state = "running"
        self.progress = Progress()
        self.asked: list[str] = []

    @cached_property
    def request(self) -> JobRequest:
        """What the thread that sends would send, made when it is looked at for the first time."""
        return self._made() if callable(self._made) else self._made

    @property
    def has_ended(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def sent(self) -> None:
        """The worker client has read all arrays."""
        self._callbacks["on_sent"]()

    def tell(self, **values: float) -> None:
        self.progress = Progress(1, 2, "fit", values, 3.0)
        self._callbacks["on_progress"](1, 2, "fit", values)

    def preview(self, labels) -> None:
        """An answer comes, and is shown at once."""
        self.show(self.digested(labels))

    def digested(self, labels) -> object:
        """What the thread that reads makes of an answer."""
        return self._callbacks["digest"](Preview(labels, "first answer", 1.0, 0.5))

    def show(self, digested: object) -> None:
        self._callbacks["on_preview"](digested)

    def log(self, message: str) -> None:
        self._callbacks["on_log"](message)

    def done(self, result: object) -> None:
        self.state = "done"
        self._callbacks["on_done"](result)

    def fail(self, kind: str, message: str) -> None:
        self.state = "cancelled" if kind == "cancelled" else "failed"
        self._callbacks["on_error"](Error(kind, message))

    def cancel(self, force: bool = True) -> None:
        self.asked.append("cancel" if force else "cancel without force")

    def finish(self) -> None:
        self.asked.append("finish")

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def wait(self, timeout: float | None = None) -> bool:
        """What arrives while someone waits."""
        if "cancel" in self.asked and not self.has_ended:
            self.fail("cancelled", "The job was stopped.")
        return self.has_ended


class FakeClient:
    def __init__(self) -> None:
        self.jobs: list[FakeJob] = []

    def submit(self, request: JobRequest | Callable[[], JobRequest], **callbacks: Any) -> FakeJob:
        self.jobs.append(FakeJob(request, callbacks))
        return self.jobs[-1]
