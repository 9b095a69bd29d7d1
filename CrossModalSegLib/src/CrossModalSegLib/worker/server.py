"""The worker process: requests come in as lines, run one after another, and are answered by lines.

The main thread works. A second thread reads, so that cancelling and pausing reach a job in mid-run. A third one looks
whether the program that is served still lives: its end closes our input, but only if nothing else holds the pipe.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from CrossModalSegLib import __version__
from CrossModalSegLib.errors import Cancelled, CrossModalSegError, OutputError, SessionError, TakenError
from CrossModalSegLib.progress import CancelToken, PausableToken
from CrossModalSegLib.worker.context import Context, Previewer, Reporter
from CrossModalSegLib.worker.interruption import stopping_forward_passes
from CrossModalSegLib.worker.jobs import run_job
from CrossModalSegLib.worker.jobs_folder import JobsFolder
from CrossModalSegLib.worker.messages import (
    MAX_LINE_BYTES,
    REQUESTS,
    Cancel,
    Control,
    Envelope,
    Error,
    Event,
    Finish,
    Hello,
    JobRequest,
    Log,
    MessageError,
    Pause,
    Paused,
    Preview,
    Queued,
    Ready,
    Resume,
    Running,
    Shutdown,
    from_line,
    to_line,
)
from CrossModalSegLib.worker.processes import end_children, watched
from CrossModalSegLib.worker.store import Store
from CrossModalSegLib.worker.volume_files import read_volumes, write_volumes

_WATCH_SECONDS = 1.0
_UNWIND_SECONDS = 1.0


def serve() -> int:
    """Serve the program at the other end of standard input and output until it is gone; does not return then."""
    lines, out = _claim_pipes()
    with contextlib.suppress(ValueError):  # outside of the main thread there is no Ctrl-C to ignore
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Server(lines, out).run()
    return 0


@dataclass(frozen=True, eq=False)
class _Entry:
    """A job that was accepted."""

    id: str
    request: JobRequest
    cancel: PausableToken
    finish: CancelToken = field(default_factory=CancelToken)


class Server:
    """Answers requests."""

    def __init__(self, lines: BinaryIO, out: BinaryIO) -> None:
        """Nothing is read yet.

        Args:
            lines: where requests come from.
            out: where events go.
        """
        self._lines, self._out = lines, out
        self._writing, self._lock = threading.Lock(), threading.Lock()
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._waiting: dict[str, _Entry] = {}
        self._running: _Entry | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._folder: JobsFolder | None = None
        self._store = Store()

    def run(self) -> None:
        """Work until the input ends; then the process does."""
        threading.Thread(target=self._read, daemon=True, name="reader").start()
        try:
            _warm_up()
            while True:
                self._work(self._queue.get())
        finally:
            self._end()

    # --- the working thread ------------------------------------------------------------------------------------------

    def _work(self, job: str) -> None:
        with self._lock:
            entry = self._waiting.pop(job, None)
            if entry is None:  # it was cancelled while it waited
                return
            self._running = entry
            self._idle.clear()
        self._send(Running(), job)
        with _told_to(partial(self._tell, job)):
            answer = self._answer(entry)
        with self._lock:
            self._running = None
        self._send(answer, job)
        self._idle.set()

    def _answer(self, entry: _Entry) -> Event:
        """The result of a job with its arrays on disk, or what is wrong with it."""
        folder = self._folder.make(entry.id)
        try:
            request = read_volumes(entry.request, folder)
            with stopping_forward_passes(entry.cancel):
                result = run_job(request, self._context(entry, folder))
            entry.cancel.raise_if_cancelled()
            return write_volumes(result, folder, "out")
        except Exception as error:  # noqa: BLE001  whatever happens to a job, the worker lives on
            answer = error_of(error)
        if answer.kind == "memory":
            self._store.make_room()
            _empty_device_caches()
        return answer

    def _context(self, entry: _Entry, folder: Path) -> Context:
        def show(preview: Preview) -> None:
            nonlocal shown
            shown += 1
            try:
                packed = write_volumes(preview, folder, f"preview-{shown}")
            except OSError:
                self._tell(entry.id, "No space is left for previews; the work goes on without them.")
            else:
                self._send(packed, entry.id)

        shown = 0
        return Context(
            progress=Reporter(partial(self._send, job=entry.id), entry.cancel),
            preview=Previewer(show),
            cancel=entry.cancel,
            finish=entry.finish,
            store=self._store,
        )

    # --- the reading thread ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while line := self._lines.readline(MAX_LINE_BYTES + 1):
                try:
                    envelope = from_line(line, REQUESTS)
                except MessageError as error:
                    self._send(Error("message" if error.job is None else "input", str(error)), error.job)
                    continue
                if isinstance(envelope.message, Shutdown):
                    break
                self._take(envelope)
        finally:
            self._end()

    def _take(self, envelope: Envelope) -> None:
        message, job = envelope.message, envelope.job
        if isinstance(message, Hello):
            self._greet(message)
        elif self._folder is None:
            self._send(Error("message", "The first message should be a hello."), None)
        elif job is None:
            self._send(Error("message", "A message about a job should name it."), None)
        elif isinstance(message, Control):
            self._control(message, job)
        else:
            self._accept(message, job)

    def _greet(self, hello: Hello) -> None:
        folder = JobsFolder(hello.folder)
        if not folder.is_ours:
            self._send(Error("message", "The hello should name a folder for jobs that the client made."), None)
            return
        self._folder = folder
        watch = partial(self._watch, hello.parent_pid, hello.parent_created)
        threading.Thread(target=watch, daemon=True, name="watch").start()
        self._send(Ready(__version__, os.getpid()), None)

    def _accept(self, request: JobRequest, job: str) -> None:
        entry = _Entry(job, request, PausableToken(lambda stands: self._send(Paused() if stands else Running(), job)))
        with self._lock:
            if job in self._waiting or (self._running is not None and self._running.id == job):
                return
            ahead = len(self._waiting) + (self._running is not None)
            self._waiting[job] = entry
        self._send(Queued(ahead), job)
        self._queue.put(job)

    def _control(self, wish: Control, job: str) -> None:
        with self._lock:
            was_waiting = isinstance(wish, Cancel) and self._waiting.pop(job, None) is not None
            is_running = self._running is not None and self._running.id == job
            entry = self._running if is_running else self._waiting.get(job)
        if was_waiting:
            self._send(Error("cancelled", "The job was stopped before it began."), job)
        if entry is None:  # it has ended meanwhile
            return
        if isinstance(wish, Cancel):
            entry.cancel.cancel()
        elif isinstance(wish, Pause):
            entry.cancel.pause()
        elif isinstance(wish, Finish):
            entry.finish.cancel()
            entry.cancel.resume()
        elif isinstance(wish, Resume):
            entry.cancel.resume()

    # --- any thread --------------------------------------------------------------------------------------------------

    def _send(self, event: Event, job: str | None) -> None:
        line = to_line(Envelope(event, job))
        with self._writing:
            try:
                self._out.write(line)
                self._out.flush()
            except (OSError, ValueError):  # nobody listens any more; the reading thread ends the process
                return

    def _tell(self, job: str, sentence: str) -> None:
        self._send(Log(sentence), job)

    def _watch(self, pid: int, began: float) -> None:
        is_there = watched(pid, began)
        while is_there():
            time.sleep(_WATCH_SECONDS)
        self._end()

    def _end(self) -> None:
        """End the process with all that it started; a running job may tidy up for a moment."""
        with self._lock:
            running = self._running
            self._waiting.clear()
        if running is not None and threading.current_thread() is not threading.main_thread():
            running.cancel.cancel()
            self._idle.wait(_UNWIND_SECONDS)
        with contextlib.suppress(Exception):  # nothing may keep the process from ending
            end_children(os.getpid())
            if self._folder is not None:
                self._folder.remove()
        os._exit(0)


def error_of(error: BaseException) -> Error:
    """What an exception means to the person."""
    from CrossModalSegLib.cli.failures import failure_of

    failure = failure_of(error)
    if isinstance(error, Cancelled):
        return Error("cancelled", "The job was stopped.")
    if isinstance(error, SessionError):
        return Error("session", str(error))
    if isinstance(error, ImportError):
        return Error("missing", f"A package is missing in the worker's Python: {error}. Install it and start again.")
    if failure is None:
        return Error("defect", _defect(error))
    if isinstance(error, TakenError):
        return Error("taken", failure.sentence)
    if isinstance(error, (OutputError, OSError)):
        return Error("disk", failure.sentence)
    return Error("input" if isinstance(error, CrossModalSegError) else "memory", failure.sentence)


def _defect(error: BaseException) -> str:
    """Where it happened, but not what the error says, which may hold what is in the images."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "CrossModalSegLib" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else "an unknown place"
    logging.getLogger(__name__).error(
        "%s: %s",
        type(error).__name__,
        " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)),
    )
    return (
        f"Something is wrong in the program itself ({type(error).__name__} in {where}); your scribbles are untouched. "
        "Please report it with this sentence."
    )


class _Teller(logging.Handler):
    """Hands the library's warnings to the person; they name no file, no patient and no value of an image."""

    def __init__(self, tell: object) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self._tell(" ".join(record.getMessage().split()))


@contextlib.contextmanager
def _told_to(tell: object) -> Iterator[None]:
    handler, logger = _Teller(tell), logging.getLogger("CrossModalSegLib")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for messages alone; whatever else is printed goes to standard error."""
    lines, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return lines, out


def _warm_up() -> None:
    """Import what takes seconds while nobody waits for it; a job will tell what is missing."""
    with contextlib.suppress(ImportError, OSError):
        import CrossModalSegLib.fitting.fit_case
        import CrossModalSegLib.inference.segment  # noqa: F401


def _empty_device_caches() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
