"""One life of the worker process, seen from the client: what goes in, what comes out, and its end.

Three threads wait where the caller must not: one makes requests and writes them with their arrays, one reads events
and arrays, one reads the process's chatter. Whatever arrives goes into the client's inbox.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from CrossModalSegLib import __version__
from CrossModalSegLib.errors import CrossModalSegError, InputError
from CrossModalSegLib.worker.jobs_folder import JobsFolder
from CrossModalSegLib.worker.messages import (
    EVENTS,
    MAX_LINE_BYTES,
    RESULT_TYPES,
    Control,
    Envelope,
    Error,
    Event,
    Hello,
    JobRequest,
    Preview,
    Ready,
    Shutdown,
    from_line,
    to_line,
)
from CrossModalSegLib.worker.processes import created, end_tree
from CrossModalSegLib.worker.volume_files import read_volumes, write_volumes

_CHATTER_LINES = 40
_LAST_WORDS_SECONDS = 0.5

MakeRequest = Callable[[], JobRequest]
Digest = Callable[[Preview], Any]


@dataclass(frozen=True)
class Lost:
    """The process ended.

    Attributes:
        reason: a sentence about it.
        was_asked: whether `stop` or `kill` ended it.
        was_forced: whether `force_cancel` did.
    """

    reason: str
    was_asked: bool
    was_forced: bool


@dataclass(frozen=True)
class Sent:
    """A request is on its way: nobody reads its arrays any more."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """Something for the client.

    Attributes:
        source: the connection, or None where there is none.
        job: which job it is about, or None.
        event: what happened.
    """

    source: Connection | None
    job: str | None
    event: Event | Lost | Sent


class Connection:
    """A running worker process.

    Attributes:
        pid: of the process, or of its launcher.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        folder: JobsFolder,
        inbox: queue.SimpleQueue[Arrival],
    ) -> None:
        """Start the process.

        Raises:
            OSError: the command cannot be started.
        """
        self._folder, self._inbox = folder, inbox
        self._outbox: queue.SimpleQueue[tuple[JobRequest | MakeRequest | Control, str | None] | None]
        self._outbox = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unsent: set[str] = set()
        self._open: set[str] = set()
        self._previews: dict[str, Any] = {}
        self._digests: dict[str, Digest] = {}
        self._chatter: deque[str] = deque(maxlen=_CHATTER_LINES)
        self._was_asked = self._was_forced = self._is_ready = self._has_ended = False
        self._confusion: str | None = None
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else dict(environment),
            **_detached(),
        )
        self.pid = self._process.pid
        hello = Hello(__version__, folder.path, os.getpid(), created(os.getpid()) or 0.0)
        self._outbox.put((hello, None))
        self._reader = _thread(self._read)
        self._listener = _thread(self._listen)
        _thread(self._write)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._reader.is_alive() and not self._has_ended

    def submit(self, job: str, request: JobRequest | MakeRequest, digest: Digest | None) -> None:
        """Send a request; it is made, and its arrays are written, in the background.

        Args:
            job: the id of the job.
            request: what to send, or what makes it.
            digest: takes each preview as it arrives, in the thread that reads; None leaves previews as they are.
        """
        with self._lock:
            self._unsent.add(job)
            self._open.add(job)
            if digest is not None:
                self._digests[job] = digest
        self._outbox.put((request, job))

    def send(self, control: Control, job: str) -> None:
        """Send a wish about a job."""
        self._outbox.put((control, job))

    def withdraw(self, job: str) -> bool:
        """Take back a request that was not sent yet; whether that was so."""
        with self._lock:
            is_unsent = job in self._unsent
            self._unsent.discard(job)
            if is_unsent:
                self._close(job)
        return is_unsent

    def has_open(self, job: str) -> bool:
        """Whether the worker still owes a result or an error for a job."""
        with self._lock:
            return job in self._open

    def latest_preview(self, job: str) -> Any:
        """The last preview of a job that arrived, or what was made of it, once; then None."""
        with self._lock:
            return self._previews.pop(job, None)

    def kill(self) -> None:
        """End the process and all below it now."""
        self._was_asked = True
        end_tree(self.pid, timeout=0.0)

    def force_cancel(self, job: str, error: Error) -> None:
        """End the process where it still works on a job that should have stopped; the job ends with this error."""
        if self.is_alive and self.has_open(job):
            self._was_forced = True
            self.kill()
            self._inbox.put(Arrival(self, job, error))

    def stop(self, timeout: float) -> None:
        """Ask the process to end; kill it where it has not done so in time."""
        self._was_asked = True
        with self._lock:
            self._unsent.clear()
        self._outbox.put((Shutdown(), None))
        self._outbox.put(None)
        self._reader.join(timeout)
        if self._reader.is_alive():
            end_tree(self.pid)
            self._reader.join(1.0)

    # --- threads -----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        # Where the process has ended, writing to it fails, and so does closing; the reader tells the client.
        with contextlib.suppress(OSError, ValueError), self._process.stdin as pipe:
            while (item := self._outbox.get()) is not None:
                message, job = item
                if job is None or isinstance(message, Control):
                    _put(pipe, Envelope(message, job))
                else:
                    self._write_request(pipe, message, job)
                # Whoever asked shall be the last to hold the images: they may be an application's own.
                item = message = None

    def _write_request(self, pipe: BinaryIO, request: JobRequest | MakeRequest, job: str) -> None:
        if not self._is_wanted(job):
            return
        try:
            made = request() if callable(request) else request
            packed = write_volumes(made, self._folder.make(job), "in")
            line = to_line(Envelope(packed, job))
        except Exception as error:  # noqa: BLE001 - without an answer the caller would wait for ever
            self._refuse(job, error)
            return
        with self._lock:
            is_wanted = job in self._unsent
            self._unsent.discard(job)
        if is_wanted:
            pipe.write(line)
            pipe.flush()
            self._inbox.put(Arrival(self, job, Sent()))
        else:
            self._folder.discard(job)

    def _is_wanted(self, job: str) -> bool:
        with self._lock:
            return job in self._unsent

    def _refuse(self, job: str, error: Exception) -> None:
        """End a job whose request could not be written."""
        self.withdraw(job)
        self._folder.discard(job)
        if isinstance(error, OSError):
            said = Error("disk", f"The images cannot be written to '{self._folder.path}': {error.strerror or error}.")
        elif isinstance(error, CrossModalSegError):
            said = Error("input", str(error))
        elif isinstance(error, MemoryError):
            said = Error("memory", "There is not enough memory to send the images; close other programs.")
        else:
            said = Error("defect", f"The images could not be sent ({type(error).__name__}: {error}).")
        self._inbox.put(Arrival(self, job, said))

    def _read(self) -> None:
        with self._process.stdout as pipe:
            while line := pipe.readline(MAX_LINE_BYTES + 1):
                try:
                    self._arrive(from_line(line, EVENTS))
                except InputError as error:
                    self._confusion = str(error)
                    break
        lost = self._end()
        # Before the client hears of it, who may start another process at once: this thread lives a little longer.
        self._has_ended = True
        self._inbox.put(Arrival(self, None, lost))

    def _arrive(self, envelope: Envelope) -> None:
        job, event = envelope.job, envelope.message
        self._is_ready |= isinstance(event, Ready)
        if job is None:
            self._inbox.put(Arrival(self, None, event))
            return
        try:
            event = read_volumes(event, self._folder.of(job))
        except (CrossModalSegError, MemoryError) as error:
            if isinstance(event, Preview):  # the disk is full, or the system cleaned up: the result will tell
                return
            event = _unread(error)
        if isinstance(event, Preview):
            digest = self._digests.get(job)
            digested = event if digest is None else digest(event)
            with self._lock:
                is_new = job not in self._previews
                self._previews[job] = digested
            if not is_new:  # the caller has not looked at the one before: it sees this one instead
                return
        elif isinstance(event, (Error, *RESULT_TYPES)):
            with self._lock:
                self._close(job)
            self._folder.discard(job)
        self._inbox.put(Arrival(self, job, event))

    def _close(self, job: str) -> None:
        """Expect nothing of a job any more; the lock is held."""
        self._open.discard(job)
        self._digests.pop(job, None)

    def _end(self) -> Lost:
        """See the process out, and all below it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_SECONDS)
        end_tree(self.pid)
        code = self._process.wait()
        self._outbox.put(None)
        self._listener.join(_LAST_WORDS_SECONDS)
        with self._lock:
            left = list(self._open)
        for job in left:
            self._folder.discard(job)
        return Lost(self._why(code), self._was_asked, self._was_forced)

    def _why(self, code: int) -> str:
        last = self._chatter[-1] if self._chatter else ""
        if self._confusion is not None:
            return f"The worker was ended because its answer was not understood. {self._confusion}"
        was_killed = hasattr(signal, "SIGKILL") and code == -signal.SIGKILL
        killed = "it was killed, perhaps by the system for want of memory"
        if not self._is_ready:
            why = killed if was_killed else last or f"it ended with the code {code}"
            return f"The worker could not be started: {why}."
        how = killed if was_killed else f"exit code {code}" + (f", {last}" if last else "")
        return f"The worker stopped unexpectedly ({how}); your scribbles are untouched. Start again to go on."

    def _listen(self) -> None:
        with self._process.stderr as pipe:
            for line in pipe:
                text = line.decode("utf-8", errors="replace").strip()
                if text:
                    self._chatter.append(text.rstrip("."))


def _put(pipe: BinaryIO, envelope: Envelope) -> None:
    pipe.write(to_line(envelope))
    pipe.flush()


def _unread(error: Exception) -> Error:
    """What to say of a result that cannot be taken."""
    if isinstance(error, MemoryError):
        return Error("memory", "There is not enough memory to take the result; close other programs, and start again.")
    return Error("disk", f"The result could not be read. {error}")


def _detached() -> dict[str, object]:
    """Out of the reach of the Ctrl-C that is meant for the caller, and without a window."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _thread(run: object) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True, name=f"crossmodalseg-{run.__name__.strip('_')}")
    thread.start()
    return thread
