from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from CrossModalSegLib.errors import OutputError
from CrossModalSegLib.output import atomic_folder, atomic_path, check_spares, final_name, final_place, write_json

as_root = hasattr(os, "geteuid") and os.geteuid() == 0


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


# --- files -------------------------------------------------------------------------------------------------------


def test_the_file_appears_at_the_end_only(tmp_path: Path):
    target = tmp_path / "ein Bild ü.nii.gz"
    with atomic_path(target) as temporary:
        temporary.write_text("x")
        assert not target.exists()
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
    assert names(tmp_path) == [target.name]
    assert target.read_text() == "x"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_block_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, error: BaseException):
    (tmp_path / "a.txt").write_text("old")

    def write() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_missing_folders_are_made_and_taken_away_on_failure(tmp_path: Path):
    def write(fail: bool) -> None:
        with atomic_path(tmp_path / "a" / "b" / "c.txt") as temporary:
            temporary.write_text("x")
            if fail:
                raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write(fail=True)
    assert names(tmp_path) == []
    write(fail=False)
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_nothing_written_is_an_error(tmp_path: Path):
    with pytest.raises(OutputError, match="Nothing was written"), atomic_path(tmp_path / "a"):
        pass


def test_a_folder_in_the_way(tmp_path: Path):
    with pytest.raises(OutputError, match="a folder of that name exists"), atomic_path(tmp_path):
        pass


def test_a_file_in_the_place_of_a_folder(tmp_path: Path):
    (tmp_path / "a").write_text("")
    with (
        pytest.raises(OutputError, match="a file stands where a folder is needed"),
        atomic_path(tmp_path / "a" / "b.txt"),
    ):
        pass
    with pytest.raises(OutputError, match="a file stands where"), atomic_path(tmp_path / "a" / "b" / "c.txt"):
        pass


@pytest.mark.parametrize("name", ["x" * 300 + ".txt", "null\0.txt", os.fsdecode(b"M\xfcller.txt")])
def test_impossible_names(tmp_path: Path, name: str):
    with pytest.raises(OutputError, match="Nothing can be written to"), atomic_path(tmp_path / name):
        pass
    with pytest.raises(OutputError, match="Nothing can be written to"), atomic_folder(tmp_path / name):
        pass


@pytest.mark.parametrize("name", ["n" * 248 + ".nii.gz", "ü" * 120 + "x.nii.gz", "n" + "ü" * 120 + "x.nii.gz"])
def test_the_longest_names_that_file_systems_take(tmp_path: Path, name: str):
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "inner" / name, overwrite=True) as folder:
            (folder / "file").write_text(text)
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [name, "file"]
    assert (tmp_path / "inner" / name / "file").read_text() == "second"
    assert [each.name for each in (tmp_path / "inner").iterdir()] == [name]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_to_itself_is_no_reason_to_fail(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    check_spares(tmp_path / "out", [tmp_path / "loop"])
    with pytest.raises(OutputError, match="would take away the input"):
        check_spares(tmp_path / "loop", [tmp_path / "loop"])


def test_a_place_that_is_no_text_is_named_before_work(tmp_path: Path):
    with pytest.raises(OutputError, match=r"M.*ller' \(it holds bytes that are no text in UTF-8\); name another place"):
        check_spares(tmp_path / os.fsdecode(b"M\xfcller"))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space is left to write"),
        (errno.EDQUOT, "No space is left"),
        (errno.EROFS, "is not writable"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_errors_of_the_disk(tmp_path: Path, number: int, message: str):
    def write() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match=message):
        write()
    assert names(tmp_path) == []


def test_errors_about_what_the_block_reads_are_left_alone(tmp_path: Path):
    def write() -> None:
        with atomic_path(tmp_path / "out" / "a.txt") as temporary:
            temporary.write_text((tmp_path / "elsewhere" / "input.txt").read_text())

    with pytest.raises(FileNotFoundError):
        write()
    assert names(tmp_path) == []


def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"'.*a\.txt' cannot be written: '.*' is not writable; name another folder"):
        write_json({}, tmp_path / "a.txt")
    assert names(tmp_path) == []


@pytest.mark.skipif(as_root, reason="root may write everywhere")
def test_a_really_unwritable_folder(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="is not writable"):
            write_json({}, tmp_path / "a" / "b.json")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_really_full_disk(tmp_path: Path):
    """A limit on the size of files stands in for a full disk."""
    code = (
        "import resource, signal, sys\n"
        "from CrossModalSegLib.output import write_json\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_json(['x' * 100000], sys.argv[1])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.json"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "OutputError: No space is left to write" in result.stderr
    assert names(tmp_path) == []


# --- folders -----------------------------------------------------------------------------------------------------


_KILLED = (
    "import os, sys\n"
    "from CrossModalSegLib.output import atomic_folder\n"
    "with atomic_folder(sys.argv[1]) as one, atomic_folder(sys.argv[2]):\n"
    "    (one / 'half').write_text('x')\n"
    "    os._exit(3)\n"
)


def test_what_a_killed_program_left_is_removed_by_the_next_one(tmp_path: Path):
    killed = subprocess.run([sys.executable, "-c", _KILLED, tmp_path / "cases", tmp_path / "other ü"], check=False)
    assert killed.returncode == 3
    left = names(tmp_path)
    assert sorted(final_name(name) for name in left) == ["cases", "other ü"]
    machine, process = left[0].split("-")[1].split(".")[1:]
    spared = [
        f".partial-0123abcd.{machine}.{os.getpid():x}-cases",  # of a program that lives
        f".partial-0123abcd.00000000.{process}-cases",  # of another machine
        ".partial-0123abcd-cases",  # nobody knows whose
        ".partial-mine",
        f".old-0123abcd.{machine}.{process}-cases",  # holds what was there before
    ]
    for name in spared:
        (tmp_path / name).mkdir()
    (tmp_path / f".partial-89abcdef.{machine}.{process}-a file").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dear").touch()
    (tmp_path / f".partial-89abcdef.{machine}.{process}-a link").symlink_to(elsewhere, target_is_directory=True)
    files = [f".partial-89abcdef.{machine}.{process}-a {what}" for what in ("file", "link")]
    with atomic_folder(tmp_path / "cases") as folder:
        (folder / "whole").write_text("x")
    assert names(tmp_path) == sorted([*spared, *files, "cases", "elsewhere"])
    assert names(tmp_path / "cases") == ["whole"]
    assert names(elsewhere) == ["dear"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_errors_name_the_place_that_was_chosen_not_the_temporary_one(tmp_path: Path, number: int):
    def write() -> None:
        with atomic_folder(tmp_path / "cases") as folder, atomic_path(folder / "Fall 1_ct.nrrd") as temporary:
            assert final_place(temporary) == tmp_path / "cases" / "Fall 1_ct.nrrd"
            raise OSError(number, os.strerror(number), str(temporary))

    with pytest.raises(OutputError) as caught:
        write()
    assert f"'{tmp_path / 'cases' / 'Fall 1_ct.nrrd'}'" in str(caught.value)
    assert ".partial-" not in str(caught.value)
    assert names(tmp_path) == []


def test_names_that_are_none_of_ours(tmp_path: Path):
    for name in ("cases", ".partial-cases", ".partial-0123-cases", "partial-0123abcd-cases"):
        assert final_name(name) is None
        assert final_place(tmp_path / name / "a") == tmp_path / name / "a"
    assert final_name(".partial-0123abcd-a-b.nii.gz") == final_name(".old-0123abcd-a-b.nii.gz") == "a-b.nii.gz"


def test_a_folder_appears_at_once(tmp_path: Path):
    target = tmp_path / "a b" / "ö"
    with atomic_folder(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "x.txt").write_text("x")
        assert not target.exists()
    assert (target / "sub" / "x.txt").read_text() == "x"
    assert names(target.parent) == ["ö"]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path):
    def write() -> None:
        with atomic_folder(tmp_path / "a" / "b") as temporary:
            (temporary / "x.txt").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == []


def test_an_empty_folder_is_taken(tmp_path: Path):
    (tmp_path / "a").mkdir()
    with atomic_folder(tmp_path / "a") as temporary:
        (temporary / "x.txt").write_text("x")
    assert names(tmp_path / "a") == ["x.txt"]
    assert names(tmp_path) == ["a"]


def test_a_folder_with_content_is_refused_unless_told(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="exists and is not empty"), atomic_folder(tmp_path / "a"):
        pass
    with atomic_folder(tmp_path / "a", overwrite=True) as temporary:
        assert names(tmp_path / "a") == ["mine.txt"]
        (temporary / "new.txt").write_text("x")
    assert names(tmp_path / "a") == ["new.txt"]
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_to_a_folder_is_replaced_and_nothing_is_left_of_it(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to("real")
    with atomic_folder(tmp_path / "link", overwrite=True) as folder:
        (folder / "new").touch()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "real"]
    assert [each.name for each in (tmp_path / "link").iterdir()] == ["new"]
    assert [each.name for each in (tmp_path / "real").iterdir()] == ["old"]


def test_a_failed_overwrite_keeps_the_old_content(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("precious")

    def write() -> None:
        with atomic_folder(tmp_path / "a", overwrite=True):
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OutputError, match="No space is left"):
        write()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["mine.txt"]


def test_the_working_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "parent" / "work").mkdir(parents=True)
    (tmp_path / "home" / "me").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "parent" / "work")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home" / "me")
    for name in ("parent", "home"):
        with pytest.raises(OutputError, match="working or home folder"), atomic_folder(tmp_path / name, overwrite=True):
            pass
    assert names(tmp_path) == ["home", "parent"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path):
    (tmp_path / "a").write_text("")
    with pytest.raises(OutputError, match="a file of that name exists"), atomic_folder(tmp_path / "a"):
        pass


# --- JSON --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Report:
    dsc: float
    path: Path
    values: tuple


def test_json_of_everything_that_reports_hold(tmp_path: Path):
    report = Report(np.float32(0.5), Path("a") / "b", (np.int64(3), float("nan"), np.array([1.0, np.inf]), True, None))
    write_json({"report": report, 7: {"é": "ü"}}, tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert "é" in text
    assert json.loads(text) == {
        "report": {"dsc": 0.5, "path": str(Path("a") / "b"), "values": [3, None, [1.0, None], True, None]},
        "7": {"é": "ü"},
    }


def test_json_refuses_what_it_cannot_hold(tmp_path: Path):
    with pytest.raises(OutputError, match="type object cannot be written as JSON"):
        write_json({"a": object()}, tmp_path / "r.json")
    assert names(tmp_path) == []
