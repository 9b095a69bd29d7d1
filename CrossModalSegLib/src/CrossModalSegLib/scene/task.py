"""Work on nodes that the worker process does, and what its results do to the scene."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from CrossModalSegLib.errors import CrossModalSegError
from CrossModalSegLib.worker.client import Job, WorkerClient
from CrossModalSegLib.worker.connection import MakeRequest
from CrossModalSegLib.worker.messages import Error, ErrorKind, JobRequest, Preview, Progress

from .nodes import require_present

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScene

State = Literal["queued", "running", "paused", "done", "failed", "cancelled"]


def _nothing(*_: object) -> None:
    """Leaves the scene as it is."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a task asks for and does with the answers.

    Attributes:
        request: for the worker, or what makes it in the thread that sends it; None once it was sent.
        write: writes a result into the scene, all of it or nothing, and returns what the caller gets.
        show: shows what `digest` made of a preview; None where there are none.
        digest: does with a preview what takes long, in the thread that reads it.
        sent: called once the request is on its way; raises where what was read meanwhile is not what it was.
        follow: is told the figures of each progress.
        revert: takes back what previews did.
        release: called once the worker works for it no longer, however it ended.
        more: what to send after a result before the work is done, such as the next case; None where it was the last.
        again: a request to send instead after an error, or None where the error stays.
        may_linger: whether the worker may go on for a while once it was cancelled: what takes long to stop, but leaves
            nothing, is not worth the networks that end with the worker.
    """

    request: JobRequest | MakeRequest | None
    write: Callable[[Any], Any]
    show: Callable[[Any], Any] | None = None
    digest: Callable[[Preview], Any] = lambda preview: preview
    sent: Callable[[], None] = _nothing
    follow: Callable[[Mapping[str, float]], None] = _nothing
    revert: Callable[[], None] = _nothing
    release: Callable[[], None] = _nothing
    more: Callable[[Any], JobRequest | MakeRequest | None] = lambda _: None
    again: Callable[[Error], JobRequest | MakeRequest | None] = lambda _: None
    may_linger: bool = False


@dataclass(frozen=True, eq=False)
class _Digested:
    """A preview, ready to be shown, or why it is not."""

    value: Any
    error: Exception | None = None


class Task:
    """One piece of work. Set the callbacks right after it was made: they are called by `WorkerClient.poll` only.

    Attributes:
        job: what runs in the worker.
        result: what the workflow's function promises, once the state is "done".
        error: a sentence, once the state is "failed" or "cancelled".
        kind: of the error, as in `worker.messages.Error`.
        on_progress: called with (done, total, message, values).
        on_preview: called with the segmentation that shows the best answer so far.
        on_done: called with the result, which is in the scene by then.
        on_error: called with a sentence, also when the work was cancelled; the scene is as it was before.
        on_log: called with sentences that the person should see.
    """

    def __init__(self, scene: vtkMRMLScene, client: WorkerClient, nodes: Sequence[vtkMRMLNode], plan: Plan) -> None:
        """Start.

        Args:
            scene: holds the nodes.
            client: the way to the worker.
            nodes: the work is stopped when one of them is deleted.
            plan: what to do.
        """
        self.on_progress: Callable[[int, int, str, Mapping[str, float]], None] | None = None
        self.on_preview: Callable[[vtkMRMLNode], None] | None = None
        self.on_done: Callable[[Any], None] | None = None
        self.on_error: Callable[[str], None] | None = None
        self.on_log: Callable[[str], None] | None = None
        self.result: Any = None
        self.error: str | None = None
        self.kind: ErrorKind | None = None
        self._is_done = self._is_cancelled = self._is_paused = False
        self._scene, self._client, self._nodes = scene, client, tuple(nodes)
        self._plan = replace(plan, request=None)  # the job alone holds the images, and only until it ends
        self.job = self._submit(plan.request)

    @property
    def state(self) -> State:
        """Where the work is; "done" only when the result is in the scene."""
        if self.kind is not None:
            return "cancelled" if self.kind == "cancelled" else "failed"
        return "done" if self._is_done else ("running" if self.job.has_ended else self.job.state)

    @property
    def has_ended(self) -> bool:
        """Whether there is a result or an error."""
        return self._is_done or self.kind is not None

    @property
    def is_about_nodes(self) -> bool:
        """Whether it needs the scene; a training on files does not."""
        return bool(self._nodes)

    @property
    def progress(self) -> Progress:
        """The last that was told, with the seconds that remain."""
        return self.job.progress

    def cancel(self) -> None:
        """Stop and drop everything; the scene is as it was before."""
        self._is_cancelled = True
        self.job.cancel(force=not self._plan.may_linger)
        if self._plan.may_linger and not self.has_ended:
            self._fail("cancelled", "The job was stopped.")

    def finish(self) -> None:
        """Stop a fit as soon as it has an answer, and keep its best."""
        self.job.finish()

    def pause(self) -> None:
        """Let it stand still after the present step."""
        self._is_paused = True
        self.job.pause()

    def resume(self) -> None:
        """Let it go on."""
        self._is_paused = False
        self.job.resume()

    def wait(self, timeout: float | None = None) -> Any:
        """Poll until it has ended.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            The result.

        Raises:
            Cancelled: it was cancelled.
            CrossModalSegError: it failed.
            TimeoutError: it has not ended yet; it goes on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self.has_ended:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"The work has not ended within {timeout:g} s; it goes on.")
            self.job.wait(left)
        if self.kind is not None:
            raise Error(self.kind, self.error).as_exception()
        return self.result

    def _submit(self, request: JobRequest | MakeRequest) -> Job:
        return self._client.submit(
            request,
            on_progress=self._on_progress,
            on_preview=self._on_preview,
            on_done=self._on_done,
            on_error=self._on_error,
            on_log=self._on_log,
            on_sent=self._on_sent,
            digest=self._digest,
        )

    def _go_on(self, request: JobRequest | MakeRequest) -> None:
        self.job = self._submit(request)
        # After the job before had ended, but before that was heard of.
        if self._is_cancelled:
            self.job.cancel()
        elif self._is_paused:
            self.job.pause()

    def _on_progress(self, done: int, total: int, message: str, values: Mapping[str, float]) -> None:
        if not self.has_ended and self._is_possible():
            self._plan.follow(values)
            _call(self.on_progress, done, total, message, values)

    def _on_sent(self) -> None:
        if self.has_ended or not self._is_possible():
            return
        try:
            self._plan.sent()
        except CrossModalSegError as error:
            self._stop(str(error))

    def _digest(self, preview: Preview) -> _Digested:
        """Called in another thread, which has to live on: errors are told by `_on_preview`."""
        try:
            return _Digested(self._plan.digest(preview))
        except Exception as error:  # noqa: BLE001 - told in the other thread
            return _Digested(None, error)

    def _on_preview(self, digested: _Digested) -> None:
        if self.has_ended or self._plan.show is None or not self._is_possible():
            return
        try:
            if digested.error is not None:
                raise digested.error
            node = self._plan.show(digested.value)
        except CrossModalSegError as error:
            self._stop(str(error))
            return
        _call(self.on_preview, node)

    def _on_done(self, result: object) -> None:
        if self.has_ended:
            self._plan.release()
            return
        if self._is_cancelled and self._nodes:  # what has no nodes is about files, which are there by now
            self._fail("cancelled", "The job was stopped.")
            return
        try:
            require_present(self._scene, *self._nodes)
            request = self._plan.more(result)
            if request is not None:
                self._go_on(request)
                return
            self.result = self._plan.write(result)
        except CrossModalSegError as error:
            self._fail("input", str(error))
            return
        except BaseException as error:
            self._fail("defect", str(error))
            raise
        self._is_done = True
        self._plan.release()
        _call(self.on_done, self.result)

    def _on_error(self, error: Error) -> None:
        if self.has_ended:
            self._plan.release()
            return
        try:
            request = self._plan.again(error)
        except CrossModalSegError as fault:  # of the images, which it looks at once more
            self._fail("input", str(fault))
            return
        if request is None:
            self._fail(error.kind, error.message)
        else:
            self._go_on(request)

    def _on_log(self, message: str) -> None:
        if not self.has_ended:
            _call(self.on_log, message)

    def _is_possible(self) -> bool:
        """Whether the result will still have a place; ends the work where it has none."""
        gone = self._what_is_gone()
        if gone is not None:
            self._stop(gone)
        return gone is None

    def _what_is_gone(self) -> str | None:
        try:
            require_present(self._scene, *self._nodes)
        except CrossModalSegError as error:
            return str(error)
        return None

    def _stop(self, message: str) -> None:
        self.job.cancel(force=not self._plan.may_linger)
        self._fail("input", message)

    def _fail(self, kind: ErrorKind, message: str) -> None:
        if kind == "cancelled":  # also by a panel whose scene is closed
            message = self._what_is_gone() or message
        self.kind, self.error = kind, message
        self._plan.revert()
        if self.job.has_ended:
            self._plan.release()
        _call(self.on_error, message)


def _call(callback: Callable[..., None] | None, *values: object) -> None:
    if callback is not None:
        callback(*values)
