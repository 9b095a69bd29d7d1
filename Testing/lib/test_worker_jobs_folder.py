from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from CrossModalSegLib.worker.jobs_folder import OWNER_FILE, PREFIX, JobsFolder, make_jobs_folder, remove_stale

JOB = "0123456789abcdef"


def test_a_folder_is_private_and_its_name_random(tmp_path: Path):
    first, second = make_jobs_folder(tmp_path), make_jobs_folder(tmp_path)
    assert first.path != second.path
    assert first.is_ours
    assert not first.is_stale
    if os.name == "posix":
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(first.make(JOB).stat().st_mode) == 0o700


def test_a_job_has_a_folder_that_goes(tmp_path: Path):
    folder = make_jobs_folder(tmp_path)
    (folder.make(JOB) / "in-0.npy").write_bytes(b"x")
    folder.make(JOB)
    folder.discard(JOB)
    folder.discard(JOB)
    assert not folder.of(JOB).exists()


def test_all_of_it_goes(tmp_path: Path):
    folder = make_jobs_folder(tmp_path)
    (folder.make(JOB) / "in-0.npy").write_bytes(b"x")
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_base_is_made(tmp_path: Path):
    assert make_jobs_folder(tmp_path / "a" / "b").path.is_dir()


def test_what_the_system_cleaned_up_is_made_again(tmp_path: Path):
    folder = make_jobs_folder(tmp_path)
    for clean in ((folder.path / OWNER_FILE).unlink, lambda: shutil.rmtree(folder.path)):
        clean()
        assert folder.make(JOB).is_dir()
        assert folder.is_ours and not folder.is_stale
        if os.name == "posix":
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_what_was_removed_on_purpose_stays_away(tmp_path: Path):
    folder = make_jobs_folder(tmp_path)
    folder.remove()
    with pytest.raises(FileNotFoundError):
        folder.make(JOB)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="links are for administrators on Windows")
def test_a_link_in_the_place_of_a_cleaned_folder_is_not_written_to(tmp_path: Path):
    folder = make_jobs_folder(tmp_path)
    shutil.rmtree(folder.path)
    (tmp_path / "theirs").mkdir()
    folder.path.symlink_to(tmp_path / "theirs", target_is_directory=True)
    with pytest.raises(PermissionError):
        folder.make(JOB)
    assert list((tmp_path / "theirs").iterdir()) == []


def test_only_what_is_ours_is_removed(tmp_path: Path):
    """A folder of another name, or what someone else put into ours, stays."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("x")
    JobsFolder(home).remove()
    folder = make_jobs_folder(tmp_path)
    (folder.path / "thesis.txt").write_text("x")
    folder.remove()
    assert (home / "thesis.txt").exists()
    assert (folder.path / "thesis.txt").exists()


def test_no_link_is_followed(tmp_path: Path):
    target = tmp_path / "target"
    target.mkdir()
    (target / OWNER_FILE).write_text("{}")
    (target / JOB).mkdir()
    link = tmp_path / f"{PREFIX}link"
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets only administrators make links")
    os.utime(link, (0, 0), follow_symlinks=os.utime not in os.supports_follow_symlinks)
    remove_stale(tmp_path)
    JobsFolder(link).remove()
    assert (target / JOB).exists()


def abandoned(base: Path) -> Path:
    """A folder whose owner was killed."""
    code = (
        "import os, sys; from pathlib import Path; from CrossModalSegLib.worker.jobs_folder import make_jobs_folder; "
        f"f = make_jobs_folder(Path(sys.argv[1])); f.make('{JOB}'); print(f.path, flush=True); os._exit(9)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(base)], capture_output=True, text=True, check=False)
    assert result.returncode == 9, result.stderr
    return Path(result.stdout.strip())


def test_folders_of_dead_programs_go_when_the_next_one_starts(tmp_path: Path):
    old = abandoned(tmp_path)
    assert old.is_dir()
    mine = make_jobs_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [mine.path]


def test_a_number_that_another_process_has_now_does_not_protect(tmp_path: Path):
    folder = make_jobs_folder(tmp_path)
    owner = json.loads((folder.path / OWNER_FILE).read_text())
    (folder.path / OWNER_FILE).write_text(json.dumps({**owner, "created": owner["created"] - 1000}))
    assert folder.is_stale


def test_a_folder_without_an_owner_goes_after_a_while(tmp_path: Path):
    folder = tmp_path / f"{PREFIX}new"
    folder.mkdir()
    remove_stale(tmp_path)
    assert folder.exists()
    os.utime(folder, (0, 0))
    remove_stale(tmp_path)
    assert not folder.exists()
