from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from CrossModalSegLib.errors import OutputError
from CrossModalSegLib.training import folder_lock
from CrossModalSegLib.training.checkpoint import save_checkpoint
from CrossModalSegLib.training.folder_lock import is_locked, locked
from CrossModalSegLib.training.working_folder import check_output, no_remains, sole_training

HOLDER = """
import os, sys, time
from pathlib import Path

from CrossModalSegLib.training.folder_lock import locked

with locked(Path(sys.argv[1])) as is_free:
    if sys.argv[2] == "forks":
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, b"begun")
            time.sleep(60)
        os.read(reader, 1)
    print(is_free, flush=True)
    time.sleep(60)
"""


def test_one_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with locked(folder) as first, locked(folder) as second:
        assert (first, second) == (True, False)
        assert is_locked(folder)
    assert not folder.exists() and not is_locked(folder)
    folder.mkdir(parents=True)
    assert not is_locked(folder) and not any(folder.iterdir())
    (folder / "mine.txt").touch()
    with locked(folder) as is_free:
        assert is_free
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


@pytest.mark.skipif(os.name == "nt", reason="processes are killed and forked as on other systems")
@pytest.mark.parametrize("how", ["alone", "forks"])
def test_a_killed_process_holds_nothing(how: str, tmp_path: Path) -> None:
    """Nor do the processes that it had made."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "f", how], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert holder.stdout.readline().startswith(b"True")
        with locked(tmp_path / "f") as is_free:
            assert not is_free
        holder.kill()
        holder.wait()
        with locked(tmp_path / "f") as is_free:
            assert is_free
    finally:
        with suppress(ProcessLookupError):
            os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_a_lock_that_another_one_just_took_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, left = folder_lock._lock, []

    def too_late(stream: object) -> bool:
        if not left:
            left.append((tmp_path / "f" / folder_lock.LOCK).unlink())
        return lock(stream)

    monkeypatch.setattr(folder_lock, "_lock", too_late)
    with locked(tmp_path / "f") as is_free:
        assert is_free and left and is_locked(tmp_path / "f")


@pytest.mark.skipif(os.name == "nt", reason="Windows locks files by another function")
def test_where_a_disk_knows_no_locks_the_folder_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unknown)
    with locked(tmp_path / "f") as is_free:
        assert is_free


def test_a_second_training_changes_nothing(tmp_path: Path) -> None:
    out, working = tmp_path / "out", tmp_path / "out.training"
    with sole_training(working):
        (working / "cache").mkdir()
        check_output(out, working, resume=False)
        with pytest.raises(OutputError, match="Another training runs in"), sole_training(working), no_remains(working):
            pytest.fail("it has begun")
        assert (working / "cache").is_dir()
        (working / "cache").rmdir()
        save_checkpoint(working / "checkpoints", 1, {})
        with pytest.raises(OutputError, match="Another training runs in"):
            check_output(out, working, resume=False)
    with pytest.raises(OutputError, match="holds a training that was stopped"):
        check_output(out, working, resume=False)
    with sole_training(working):
        pass


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK"])
def test_further_processes_of_a_training_leave_the_folder_to_the_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = tmp_path / "out.training"
    with sole_training(working):
        monkeypatch.setenv(name, "1")
        with pytest.raises(OutputError, match="of no use"), sole_training(working), no_remains(working):
            raise OutputError("of no use")
        assert working.is_dir()
        monkeypatch.setenv(name, "0")
        with pytest.raises(OutputError, match="Another training"), sole_training(working):
            pytest.fail("it has begun")
    assert not working.exists()


def test_a_place_where_nothing_can_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot be made .*name another output folder"),
        sole_training(tmp_path / "file" / "out.training"),
    ):
        pytest.fail("it has begun")
