"""The way to the worker process for panels, pages and scripts: never blocks, never imports torch.

All callbacks run in the thread that calls `WorkerClient.poll`, from a timer of Qt or asyncio, or that waits in
`Job.wait`. Use a client from one thread.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from CrossModalSegLib.errors import WorkerError
from CrossModalSegLib.worker.connection import Arrival, Connection, Digest, Lost, MakeRequest, Sent
from CrossModalSegLib.worker.jobs_folder import JobsFolder, make_jobs_folder
from CrossModalSegLib.worker.messages import (
    JOB_REQUEST_TYPES,
    RESULT_TYPES,
    Cancel,
    Error,
    Event,
    Finish,
    JobRequest,
    Log,
    Pause,
    Paused,
    Preview,
    Progress,
    Queued,
    Ready,
    Resume,
    Running,
)

State = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
OnProgress = Callable[[int, int, str, Mapping[str, float]], None]
OnPreview = Callable[[Any], None]
OnDone = Callable[[Any], None]
OnError = Callable[[Error], None]
OnLog = Callable[[str], None]
OnSent = Callable[[], None]

# A job that was asked to stop has this long before its process is killed; both have to happen within 2 s.
CANCEL_SECONDS = 1.5
_WAIT_SECONDS = 0.05


class Job:
    """A request on its way.

    Attributes:
        id: 16 hexadecimal digits.
        request: what was asked, or what makes it; None once the job has ended, so that its arrays are freed.
        state: where it is.
        progress: the last one told.
        result: one of the results of `messages` once the state is "done".
        error: why there is none, once the state is "failed" or "cancelled".
        notes: what the worker logged for the person, in order.
    """

    def __init__(
        self,
        client: WorkerClient,
        request: JobRequest | MakeRequest,
        on_progress: OnProgress | None,
        on_preview: OnPreview | None,
        on_done: OnDone | None,
        on_error: OnError | None,
        on_log: OnLog | None,
        on_sent: OnSent | None,
        digest: Digest | None,
    ) -> None:
        self.id = os.urandom(8).hex()
        self.request: JobRequest | MakeRequest | None = request
        self.state: State = "queued"
        self.progress = Progress()
        self.result: Any = None
        self.error: Error | None = None
        self.notes: list[str] = []
        self._client = client
        self._on_progress, self._on_preview, self._on_log = on_progress, on_preview, on_log
        self._on_done, self._on_error, self._on_sent = on_done, on_error, on_sent
        self._digest = digest
        self._connection: Connection | None = None
        self._is_cancelled = False

    @property
    def has_ended(self) -> bool:
        """Whether there is a result or an error."""
        return self.state in ("done", "failed", "cancelled")

    def cancel(self, force: bool = True) -> None:
        """Stop it and drop what it has.

        Args:
            force: within 2 s, if need be by ending the worker process with all that it keeps; else as soon as it can.
        """
        self._client._cancel(self, force)

    def finish(self) -> None:
        """Stop a fit as soon as it has an answer, and take its best."""
        self._client._tell(self, Finish())

    def pause(self) -> None:
        """Let it stand still after the present step."""
        self._client._tell(self, Pause())

    def resume(self) -> None:
        """Let it go on."""
        self._client._tell(self, Resume())

    def wait(self, timeout: float | None = None) -> bool:
        """Poll until it has ended.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            Whether it has ended.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self.has_ended and (until is None or time.monotonic() < until):
            self._client._poll_or_wait(_WAIT_SECONDS)
        return self.has_ended

    def _take_preview(self, digested: Any) -> None:
        if not self.has_ended:
            _call(self._on_preview, digested)

    def _take(self, event: Event | Sent) -> None:
        """Note an event and tell the caller."""
        if self.has_ended:
            return
        if isinstance(event, (Error, *RESULT_TYPES)):
            self.request = self._digest = None
        if isinstance(event, Progress):
            self.progress = event
            _call(self._on_progress, event.done, event.total, event.message, event.values)
        elif isinstance(event, Sent):
            _call(self._on_sent)
        elif isinstance(event, Log):
            self.notes.append(event.message)
            _call(self._on_log, event.message)
        elif isinstance(event, (Running, Paused, Queued)):
            self.state = {Running: "running", Paused: "paused", Queued: "queued"}[type(event)]
        elif isinstance(event, Error):
            self.state, self.error = "cancelled" if event.kind == "cancelled" else "failed", event
            _call(self._on_error, event)
        elif isinstance(event, RESULT_TYPES):
            self.state, self.result = "done", event
            _call(self._on_done, event)


class WorkerClient:
    """Starts the worker process when it is needed, and again after it was lost."""

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        jobs_folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            command: of the worker; None is this Python's. In 3D Slicer, PythonSlicer with the same arguments.
            jobs_folder: where a private folder for arrays is made; None takes the system's temporary files.
            environment: of the process; None takes this one's.
        """
        self._command = [sys.executable, "-m", "CrossModalSegLib", "worker"] if command is None else list(command)
        self._base, self._environment = jobs_folder, environment
        self._inbox: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._jobs: dict[str, Job] = {}
        self._held = _Held()
        self._finalizer = weakref.finalize(self, self._held.release, 2.0)

    @property
    def is_running(self) -> bool:
        """Whether there is a worker process."""
        return self._held.connection is not None and self._held.connection.is_alive

    @property
    def pid(self) -> int | None:
        """Of the process, or of its launcher; None where there is none."""
        return self._held.connection.pid if self.is_running else None

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Those that have not ended."""
        return tuple(self._jobs.values())

    def start(self) -> None:
        """Start the process; without effect where it runs. `submit` does this as well.

        Raises:
            WorkerError: it cannot be started.
        """
        if self.is_running:
            return
        try:
            if self._held.folder is None:
                self._held.folder = make_jobs_folder(self._base)
            self._held.connection = Connection(self._command, self._environment, self._held.folder, self._inbox)
        except OSError as error:
            raise WorkerError(
                f"The worker could not be started ({error.strerror or error}): {error.filename or self._command[0]}."
            ) from error
        except ImportError as error:
            raise WorkerError(f"The worker could not be started: {error}. Install CrossModalSegLib again.") from error

    def stop(self, timeout: float = 2.0) -> None:
        """End the process with all that it started, and delete the folder of arrays. May be called twice.

        Open jobs end as "cancelled" at the next `poll`. Also happens when Python ends.

        Args:
            timeout: seconds to let it end by itself.
        """
        self._held.release(timeout)

    def submit(
        self,
        request: JobRequest | MakeRequest,
        *,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        on_done: OnDone | None = None,
        on_error: OnError | None = None,
        on_log: OnLog | None = None,
        on_sent: OnSent | None = None,
        digest: Digest | None = None,
    ) -> Job:
        """Ask for work. Jobs run one after another, in this order.

        The arrays of the request must not be changed before `on_sent`: they are written in the background.

        Args:
            request: one of the requests of `messages`, or a function that makes it, which is called in the thread that
                writes it (more than once, where a worker is lost); a `CrossModalSegError` of it ends the job.
            on_progress: called with (done, total, message, values).
            on_preview: called with the `Preview` of the best answer so far; those that came between two polls are
                skipped.
            on_done: called with the result.
            on_error: called with the `Error`, also when the job was cancelled.
            on_log: called with sentences that the person should see.
            on_sent: called when the request is written: its arrays are not read any more.
            digest: called with each `Preview` in the thread that reads it; `on_preview` gets what it returns.

        Raises:
            TypeError: the request is none of them.
        """
        if not (isinstance(request, JOB_REQUEST_TYPES) or callable(request)):
            raise TypeError(f"A request of worker.messages was expected, got {type(request).__name__}.")
        job = Job(self, request, on_progress, on_preview, on_done, on_error, on_log, on_sent, digest)
        self._jobs[job.id] = job
        self._send(job)
        return job

    def poll(self) -> int:
        """Tell the callers what has arrived; never blocks.

        Returns:
            How many events there were.
        """
        count = 0
        while True:
            try:
                arrival = self._inbox.get_nowait()
            except queue.Empty:
                return count
            count += 1
            self._dispatch(arrival)

    def _poll_or_wait(self, seconds: float) -> None:
        try:
            self._dispatch(self._inbox.get(timeout=seconds))
        except queue.Empty:
            return
        self.poll()

    def _send(self, job: Job) -> None:
        try:
            self.start()
        except WorkerError as error:
            self._inbox.put(Arrival(None, job.id, Error("crash", str(error))))
            return
        job._connection = self._held.connection
        job._connection.submit(job.id, job.request, job._digest)

    def _tell(self, job: Job, control: Finish | Pause | Resume) -> None:
        if not job.has_ended and job._connection is not None:
            job._connection.send(control, job.id)

    def _cancel(self, job: Job, force: bool) -> None:
        connection = job._connection
        if job.has_ended or job._is_cancelled or connection is None:
            return
        job._is_cancelled = True
        if connection.withdraw(job.id):
            self._inbox.put(Arrival(connection, job.id, Error("cancelled", "The job was stopped before it began.")))
            return
        connection.send(Cancel(), job.id)
        if not force:
            return
        timer = threading.Timer(CANCEL_SECONDS, connection.force_cancel, (job.id, Error("cancelled", _FORCED)))
        timer.daemon = True
        timer.start()

    def _dispatch(self, arrival: Arrival) -> None:
        if isinstance(arrival.event, Lost):
            self._on_lost(arrival.source, arrival.event)
            return
        if arrival.job is None:
            self._on_worker_event(arrival)
            return
        job = self._jobs.get(arrival.job)
        if job is None or job._connection is not arrival.source:
            return
        if isinstance(arrival.event, Preview):
            job._take_preview(arrival.source.latest_preview(job.id))
        else:
            self._take(job, arrival.event)

    def _take(self, job: Job, event: Event | Sent) -> None:
        if isinstance(event, (Error, *RESULT_TYPES)):
            del self._jobs[job.id]
        job._take(event)

    def _on_worker_event(self, arrival: Arrival) -> None:
        """The worker spoke of itself: it is there, or it did not understand."""
        if isinstance(arrival.event, Error):
            for job in self._on(arrival.source):
                self._take(job, arrival.event)
            arrival.source.kill()
        elif not isinstance(arrival.event, (Ready, Log)):
            arrival.source.kill()

    def _on_lost(self, connection: Connection, lost: Lost) -> None:
        """End the jobs of a process that is gone; those that were only waiting go to the next one."""
        for job in self._on(connection):
            if job._is_cancelled:
                self._take(job, Error("cancelled", "The job was stopped."))
            elif lost.was_forced and job.state == "queued":
                self._send(job)
            elif lost.was_forced:
                self._take(job, Error("crash", _COLLATERAL))
            elif lost.was_asked:
                self._take(job, Error("cancelled", "The worker was ended; your scribbles are untouched."))
            else:
                self._take(job, Error("crash", lost.reason))

    def _on(self, connection: Connection | None) -> list[Job]:
        return [job for job in self._jobs.values() if job._connection is connection]


class _Held:
    """What has to go with the client; apart from it, so that it can go after it."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.folder: JobsFolder | None = None

    def release(self, timeout: float) -> None:
        connection, folder = self.connection, self.folder
        self.connection = self.folder = None
        if connection is not None:
            connection.stop(timeout)
        if folder is not None:
            folder.remove()


_FORCED = (
    "The job did not stop in time, so the worker process was ended; the next job starts a new one, which has to load "
    "its models again."
)
_COLLATERAL = (
    "The worker process was ended because another job did not stop in time; your scribbles are untouched. Start again."
)


def _call(callback: Callable[..., None] | None, *values: object) -> None:
    if callback is not None:
        callback(*values)
