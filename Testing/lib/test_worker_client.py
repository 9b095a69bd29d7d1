"""The client and the real server, with a job that behaves as badly as it is told to (`worker_double`)."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import worker_double

from CrossModalSegLib.errors import InputError, WorkerError
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker import connection, volume_files
from CrossModalSegLib.worker.client import CANCEL_SECONDS, Job, WorkerClient
from CrossModalSegLib.worker.jobs_folder import make_jobs_folder
from CrossModalSegLib.worker.messages import (
    PROTOCOL,
    AutoBackgroundRequest,
    Error,
    ModelInfoRequest,
    ModelInfoResult,
    Preview,
)
from CrossModalSegLib.worker.processes import created

# Starting Python takes a second, and other work may share the machine.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def the_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerClient]:
    base = tmp_path_factory.mktemp("jobs")
    client = WorkerClient(worker_double.command(), jobs_folder=base)
    yield client
    client.stop()
    assert list(base.iterdir()) == []


@pytest.fixture
def client(the_client: WorkerClient) -> Iterator[WorkerClient]:
    """One for all tests, since each start takes a second; without jobs."""
    yield the_client
    for job in the_client.jobs:
        job.cancel()
    until(lambda: not the_client.jobs, the_client)


@pytest.fixture
def base(client: WorkerClient) -> Path:
    """Where its private folder is."""
    return client._base


def ask(client: WorkerClient, what: str, **callbacks: Callable[..., None]) -> Job:
    return client.submit(ModelInfoRequest(what), **callbacks)


def until(condition: Callable[[], object], client: WorkerClient | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        if client is not None:
            client.poll()
        time.sleep(0.01)


def running(client: WorkerClient, what: str) -> Job:
    """A job that has begun and said so."""
    job = ask(client, what)
    until(lambda: job.progress.message, client)
    assert job.state == "running"
    return job


def job_folders(base: Path) -> list[Path]:
    return [each for folder in base.iterdir() for each in folder.iterdir() if each.is_dir()]


def is_gone(pid: int) -> bool:
    return created(pid) is None


# --- the way of a job ------------------------------------------------------------------------------------------------


def test_a_job_is_told_of_in_the_callers_thread_and_gives_a_result(client):
    told = []
    job = ask(
        client,
        "loop 3",
        on_progress=lambda *each: told.append((threading.get_ident(), *each[:3])),
        on_done=lambda result: told.append(result),
        on_error=lambda error: told.append(error),
    )
    assert job.state == "queued"
    assert job.wait(PATIENCE)
    assert told[0] == (threading.get_ident(), 0, 0, "step")
    assert told[-1] is job.result
    assert isinstance(job.result, ModelInfoResult)
    assert (job.state, job.error, job.has_ended, job.request) == ("done", None, True, None)
    assert job.progress.values["loss"] <= 1.0
    assert client.jobs == ()


def test_nothing_is_told_unless_someone_polls_and_polling_never_waits(client):
    told = []
    job = ask(client, "loop 5", on_progress=lambda *each: told.append(each))
    until(lambda: not client._held.connection._unsent)
    time.sleep(0.3)
    assert told == []
    longest = 0.0
    while not job.has_ended:
        began = time.thread_time()
        client.poll()
        longest = max(longest, time.thread_time() - began)
        time.sleep(0.005)
    assert longest < 0.05
    assert client.poll() == 0


def test_jobs_run_one_after_another(client):
    order = []
    jobs = [ask(client, f"loop {n}", on_done=lambda result: order.append(result.model.name)) for n in (5, 1, 2)]
    until(lambda: jobs[0].state == "running", client)
    assert [each.state for each in jobs[1:]] == ["queued", "queued"]
    assert client.jobs == tuple(jobs)
    assert all(each.wait(PATIENCE) for each in jobs)
    assert order == ["loop 5", "loop 1", "loop 2"]


def test_a_callback_may_ask_for_more(client):
    later = []
    first = ask(client, "loop 1", on_done=lambda result: later.append(ask(client, "loop 2")))
    assert first.wait(PATIENCE)
    assert later[0].wait(PATIENCE)
    assert later[0].state == "done"


def test_an_error_in_a_callback_loses_no_other_event(client):
    def fail(result: ModelInfoResult) -> None:
        raise RuntimeError("a defect of the caller")

    first, second = ask(client, "loop 1", on_done=fail), ask(client, "loop 1")
    with pytest.raises(RuntimeError, match="a defect of the caller"):
        second.wait(PATIENCE)
    assert first.state == "done"
    assert second.wait(PATIENCE)
    assert second.state == "done"


def test_waiting_has_an_end(client):
    job = running(client, "loop")
    assert not job.wait(0.1)
    assert job.state == "running"


def test_warnings_reach_the_person_on_one_line(client):
    heard = []
    job = ask(client, "warn", on_log=heard.append)
    assert job.wait(PATIENCE)
    assert heard == job.notes == ["Less memory than wished."]


def test_what_a_job_prints_disturbs_nobody(client):
    job = ask(client, "chatter")
    assert job.wait(PATIENCE)
    assert job.state == "done"


def test_of_the_previews_between_two_polls_only_the_last_is_shown(client, base):
    seen: list[Preview] = []
    job = ask(client, "preview 3", on_preview=seen.append)
    until(lambda: not job._connection.has_open(job.id))
    assert list(base.glob("*/*/*.npy")) == []
    assert job.wait(PATIENCE)
    assert [each.name for each in seen] == ["step 2"]
    assert seen[0].labels.array.max() == 2


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("input", "Choose another image."),
        ("memory", "not enough memory"),
        ("disk", "No space is left to write"),
        ("taken", "There is one of that name."),
        ("missing", "No module named 'torch'"),
        ("defect", "wrong in the program itself (KeyError in "),
    ],
)
def test_what_went_wrong_is_told_in_a_sentence_and_the_worker_lives_on(client, kind, sentence):
    errors: list[Error] = []
    job = ask(client, f"fail {kind}", on_error=errors.append)
    assert job.wait(PATIENCE)
    assert (job.state, job.result) == ("failed", None)
    assert errors == [job.error]
    assert job.error.kind == kind
    assert sentence in job.error.message
    assert "1234.5" not in job.error.message
    assert "Jane" not in " ".join(job._connection._chatter)
    pid = client.pid
    assert ask(client, "loop 1").wait(PATIENCE)
    assert client.pid == pid


def test_a_request_of_wrong_types_fails_alone(client):
    job = ask(client, 3)
    assert job.wait(PATIENCE)
    assert job.error.kind == "input"
    assert "should be text" in job.error.message
    assert ask(client, "loop 1").wait(PATIENCE)


def test_a_request_is_made_and_a_preview_digested_in_other_threads(client: WorkerClient) -> None:
    threads, shown, said = [], [], []

    def make() -> ModelInfoRequest:
        threads.append(threading.current_thread())
        return ModelInfoRequest("preview 1")

    def digest(preview: Preview) -> str:
        threads.append(threading.current_thread())
        return f"digested {preview.name}"

    job = client.submit(
        make,
        digest=digest,
        on_sent=lambda: said.append("sent"),
        on_preview=shown.append,
        on_done=lambda result: said.append(result.model.name),
    )
    assert job.wait(PATIENCE)
    assert shown == ["digested step 0"]
    assert said == ["sent", "preview 1"]
    assert len(set(threads)) == 2
    assert threading.current_thread() not in threads
    assert job.request is None


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (InputError("'CT' holds 2 voxels that are not finite."), "input", "'CT' holds 2 voxels that are not finite."),
        (MemoryError(), "memory", "not enough memory to send the images"),
        (KeyError("ct"), "defect", "could not be sent"),
    ],
)
def test_a_request_that_cannot_be_made_ends_its_job_alone(
    client: WorkerClient, error: Exception, kind: str, sentence: str
) -> None:
    def make() -> ModelInfoRequest:
        raise error

    sent = []
    job = client.submit(make, on_sent=lambda: sent.append(1))
    assert job.wait(PATIENCE)
    assert (job.state, job.error.kind) == ("failed", kind)
    assert sentence in job.error.message
    assert sent == []
    after = ask(client, "nothing")
    assert after.wait(PATIENCE)
    assert after.state == "done"


def test_only_requests_are_taken(client):
    with pytest.raises(TypeError, match="A request of worker.messages was expected, got str"):
        client.submit("fit")


# --- stopping, finishing, pausing ------------------------------------------------------------------------------------


def cancelled_within(job: Job, seconds: float) -> None:
    began = time.monotonic()
    job.cancel()
    job.cancel()
    assert job.wait(PATIENCE)
    assert time.monotonic() - began < seconds
    assert (job.state, job.error.kind) == ("cancelled", "cancelled")


def test_a_job_that_listens_is_cancelled_at_once(client):
    job, pid = running(client, "loop"), client.pid
    cancelled_within(job, 1.0)
    assert ask(client, "loop 1").wait(PATIENCE)
    assert client.pid == pid


def test_a_job_that_does_not_listen_is_cancelled_with_its_process_and_others_go_on_in_a_new_one(client):
    job, pid = running(client, "hang"), client.pid
    waiting = ask(client, "loop 1")
    until(lambda: not job._connection._unsent)
    cancelled_within(job, 2.0)
    assert "the worker process was ended" in job.error.message
    assert waiting.wait(PATIENCE)
    assert waiting.state == "done"
    assert client.pid != pid
    assert is_gone(pid)


def test_a_job_that_is_not_forced_stops_when_it_can_and_the_process_keeps_what_it_has(client):
    job, pid = running(client, f"doze {CANCEL_SECONDS + 1.5}"), client.pid
    waiting = ask(client, "loop 1")
    job.cancel(force=False)
    assert waiting.wait(PATIENCE) and (job.state, waiting.state) == ("cancelled", "done")
    assert client.pid == pid


def test_a_job_that_waits_is_cancelled_and_the_running_one_is_not(client):
    first = running(client, "loop")
    second = ask(client, "loop")
    until(lambda: not first._connection._unsent)
    cancelled_within(second, 1.0)
    assert "before it began" in second.error.message
    assert first.state == "running"


def test_a_job_is_cancelled_before_it_was_sent(client, base, monkeypatch):
    go_on = threading.Event()
    write = volume_files._write
    monkeypatch.setattr(volume_files, "_write", lambda *each: (go_on.wait(PATIENCE), write(*each)))
    job = client.submit(AutoBackgroundRequest(Volume(np.zeros((1, 2, 3), np.uint8), np.eye(4))))
    cancelled_within(job, 0.5)
    go_on.set()
    assert ask(client, "loop 1").wait(PATIENCE)
    until(lambda: job_folders(base) == [])


def test_a_finished_job_gives_its_result(client):
    job = running(client, "loop")
    job.finish()
    assert job.wait(PATIENCE)
    assert job.state == "done"


def test_a_paused_job_stands_still_until_it_goes_on(client):
    job = running(client, "loop")
    job.pause()
    until(lambda: job.state == "paused", client)
    done = job.progress.done
    time.sleep(0.3)
    client.poll()
    assert job.progress.done == done
    job.resume()
    until(lambda: job.progress.done > done, client)
    assert job.state == "running"
    job.pause()
    until(lambda: job.state == "paused", client)
    cancelled_within(job, 1.0)


def test_a_paused_job_can_be_finished(client):
    job = running(client, "loop")
    job.pause()
    until(lambda: job.state == "paused", client)
    job.finish()
    assert job.wait(PATIENCE)
    assert job.state == "done"


def test_wishes_about_a_job_that_ended_have_no_effect(client):
    job = ask(client, "loop 1")
    assert job.wait(PATIENCE)
    for wish in (job.cancel, job.finish, job.pause, job.resume):
        wish()
    client.poll()
    assert job.state == "done"


# --- ends of the process ---------------------------------------------------------------------------------------------


def test_a_killed_worker_fails_its_jobs_and_the_next_one_starts_another(client):
    job, waiting, pid = running(client, "loop"), ask(client, "loop"), client.pid
    psutil.Process(pid).kill()
    assert job.wait(PATIENCE)
    assert waiting.wait(PATIENCE)
    for each in (job, waiting):
        assert (each.state, each.error.kind) == ("failed", "crash")
        assert "The worker stopped unexpectedly" in each.error.message
        assert "your scribbles are untouched" in each.error.message
    assert not client.is_running
    assert client.pid is None
    assert ask(client, "loop 1").wait(PATIENCE)
    assert client.pid not in (None, pid)


def test_a_worker_that_is_lost_does_not_run_when_the_client_hears_of_it(tmp_path):
    """The thread that tells may live a little longer; what was sent to it then would never be answered."""
    heard = []

    class Inbox:
        def put(self, arrival):
            heard.append((type(arrival.event), arrival.source.is_alive))

    lost = connection.Connection([sys.executable, "-c", ""], None, make_jobs_folder(tmp_path), Inbox())
    until(lambda: heard)
    assert heard == [(connection.Lost, False)]
    assert not lost.is_alive


def test_what_a_killed_worker_had_started_ends_as_well(client):
    job = running(client, "spawn")
    child = job.progress.done
    psutil.Process(client.pid).kill()
    assert job.wait(PATIENCE)
    until(lambda: is_gone(child))


def test_stopping_ends_everything_and_may_be_repeated(client, base):
    job = running(client, "spawn")
    pid, child = client.pid, job.progress.done
    began = time.monotonic()
    client.stop()
    client.stop()
    assert time.monotonic() - began < 4.0
    until(lambda: is_gone(pid) and is_gone(child))
    assert list(base.iterdir()) == []
    client.poll()
    assert (job.state, job.error.kind) == ("cancelled", "cancelled")
    assert "The worker was ended" in job.error.message
    assert ask(client, "loop 1").wait(PATIENCE)


def test_an_idle_worker_stops_at_once(client):
    assert ask(client, "loop 1").wait(PATIENCE)
    began = time.monotonic()
    client.stop()
    assert time.monotonic() - began < 1.0


def test_a_client_that_is_forgotten_takes_its_worker_with_it(tmp_path):
    client = WorkerClient(worker_double.command(), jobs_folder=tmp_path)
    client.start()
    pid = client.pid
    del client
    gc.collect()
    until(lambda: is_gone(pid))
    assert list(tmp_path.iterdir()) == []


PARENT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import worker_double
from CrossModalSegLib.worker.client import WorkerClient
from CrossModalSegLib.worker.messages import ModelInfoRequest
client = WorkerClient(worker_double.command(), jobs_folder=Path(sys.argv[2]))
job = client.submit(ModelInfoRequest("spawn"))
while not job.progress.message:
    client.poll()
    time.sleep(0.01)
print(client.pid, job.progress.done, flush=True)
if sys.argv[3] == "wait":
    time.sleep(600)
"""


@pytest.mark.parametrize("mode", ["wait", "end"])
def test_the_worker_ends_with_the_program_it_serves(tmp_path, mode):
    """Killed or at its end: the worker, what it started and the folder of arrays go."""
    here = str(Path(__file__).parent)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, here, str(tmp_path), mode], stdout=subprocess.PIPE)
    worker, child = map(int, parent.stdout.readline().split())
    parent.stdout.close()
    if mode == "wait":
        parent.kill()
    parent.wait(PATIENCE)
    until(lambda: is_gone(worker) and is_gone(child))
    until(lambda: list(tmp_path.iterdir()) == [])


def test_ctrl_c_is_for_the_caller(client):
    job = running(client, "loop")
    if os.name == "posix":
        os.kill(client.pid, signal.SIGINT)
        assert os.getpgid(client.pid) != os.getpgid(0)
    time.sleep(0.2)
    client.poll()
    assert job.state == "running"


# --- workers that cannot work ----------------------------------------------------------------------------------------


def failed_start(command: list[str], tmp_path: Path) -> str:
    client = WorkerClient(command, jobs_folder=tmp_path)
    job = ask(client, "loop 1")
    assert job.wait(PATIENCE)
    client.stop()
    assert (job.state, job.error.kind) == ("failed", "crash")
    return job.error.message


def test_a_command_that_does_not_exist(tmp_path):
    assert "could not be started" in failed_start([str(tmp_path / "no python")], tmp_path)
    with pytest.raises(WorkerError, match="could not be started"):
        WorkerClient([str(tmp_path / "no python")], jobs_folder=tmp_path).start()


def test_a_command_that_ends_says_why(tmp_path):
    message = failed_start([sys.executable, "-c", "import a_module_that_is_missing"], tmp_path)
    assert "could not be started: ModuleNotFoundError: No module named 'a_module_that_is_missing'" in message


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows tells no signal from a code")
def test_a_worker_that_is_killed_before_it_is_ready_says_so(tmp_path):
    message = failed_start([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], tmp_path)
    assert message == "The worker could not be started: it was killed, perhaps by the system for want of memory."


def test_a_worker_that_says_something_else(tmp_path):
    message = failed_start([sys.executable, "-c", "print('hello', flush=True); input(); input()"], tmp_path)
    assert "its answer was not understood" in message


def test_a_worker_of_another_version(tmp_path):
    line = json.dumps({"protocol": PROTOCOL + 1, "kind": "ready", "job": None, "content": {}})
    message = failed_start([sys.executable, "-c", f"print({line!r}, flush=True); input(); input()"], tmp_path)
    assert "different versions of CrossModalSegLib" in message


def test_a_full_disk_is_told_and_nothing_is_left(client, base, monkeypatch):
    def write(*each: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(volume_files, "_write", write)
        job = client.submit(AutoBackgroundRequest(Volume(np.zeros((1, 2, 3), np.uint8), np.eye(4))))
        assert job.wait(PATIENCE)
    assert (job.state, job.error.kind) == ("failed", "disk")
    assert "No space left on device" in job.error.message
    assert job_folders(base) == []
    assert ask(client, "loop 1").wait(PATIENCE)


def test_a_result_that_memory_is_too_small_for_is_told_and_the_worker_lives_on(client, base, monkeypatch):
    read = connection.read_volumes

    def refuse(event: object, folder: Path) -> object:
        if isinstance(event, (Preview, ModelInfoResult)):
            raise MemoryError
        return read(event, folder)

    with monkeypatch.context() as patched:
        patched.setattr(connection, "read_volumes", refuse)
        job = ask(client, "preview 1")
        assert job.wait(PATIENCE)
    assert (job.state, job.error.kind) == ("failed", "memory")
    assert job.error.message.startswith("There is not enough memory to take the result")
    assert job_folders(base) == []
    assert ask(client, "loop 1").wait(PATIENCE)


# --- the server alone ------------------------------------------------------------------------------------------------


class Pipe:
    """A worker process and its lines."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            worker_double.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def say(self, line: bytes) -> None:
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def ask(self, kind: str, job: str | None, **content: object) -> None:
        self.say(json.dumps({"protocol": PROTOCOL, "kind": kind, "job": job, "content": content}).encode())

    def hear(self) -> tuple[str, str | None, dict]:
        data = json.loads(self.process.stdout.readline())
        return data["kind"], data["job"], data["content"]

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *ending: object) -> None:
        self.process.kill()
        self.process.communicate()


JOB = "0123456789abcdef"


def hello(folder: Path, pid: int | None = None) -> dict[str, object]:
    pid = os.getpid() if pid is None else pid
    return {"version": "0", "folder": str(folder), "parent_pid": pid, "parent_created": created(pid)}


def test_the_server_bears_with_nonsense(tmp_path):
    folder = make_jobs_folder(tmp_path)
    with Pipe() as pipe:
        for line in (b"", b"nonsense", b"\xff", b'{"protocol": 9}', b"[" * 10_000):
            pipe.say(line)
            assert pipe.hear()[:2] == ("error", None)
        pipe.ask("model_info", JOB, model="loop 1")
        assert "first message should be a hello" in pipe.hear()[2]["message"]
        pipe.ask("hello", None, **hello(tmp_path))
        assert "a folder for jobs that the client made" in pipe.hear()[2]["message"]
        pipe.ask("hello", None, **hello(folder.path))
        assert pipe.hear()[0] == "ready"
        pipe.ask("model_info", None, model="loop 1")
        assert "should name it" in pipe.hear()[2]["message"]
        pipe.ask("model_info", JOB, model=1)
        assert pipe.hear()[:2] == ("error", JOB)
        pipe.ask("cancel", JOB)  # of a job that is not there
        pipe.ask("model_info", JOB, model="loop 1")
        kinds = [pipe.hear()[0] for _ in range(4)]
        assert kinds == ["queued", "running", "progress", "model_info_result"]
        pipe.ask("shutdown", None)
        assert pipe.process.wait(PATIENCE) == 0
    assert not folder.path.exists()


def test_paths_of_messages_stay_in_the_folder_of_the_job(tmp_path):
    folder = make_jobs_folder(tmp_path)
    np.save(tmp_path / "secret.npy", np.zeros((1, 1, 1), np.uint8))
    with Pipe() as pipe:
        pipe.ask("hello", None, **hello(folder.path))
        pipe.hear()
        entry = {"file": "../../secret.npy", "affine": np.eye(4).tolist()}
        pipe.ask("auto_background", JOB, scribbles=entry)
        assert [pipe.hear()[0] for _ in range(2)] == ["queued", "running"]
        kind, _, content = pipe.hear()
        assert (kind, content["kind"]) == ("error", "input")
        assert "plain name" in content["message"]
    folder.remove()


def test_the_worker_ends_with_its_parent_though_its_input_stays_open(tmp_path):
    folder = make_jobs_folder(tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with Pipe() as pipe:
        pipe.ask("hello", None, **hello(folder.path, parent.pid))
        assert pipe.hear()[0] == "ready"
        parent.kill()
        parent.wait()
        assert pipe.process.wait(PATIENCE) == 0
    assert not folder.path.exists()
