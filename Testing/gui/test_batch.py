"""The batch script as people run it: in a process of its own, with the real worker, on tiny cases and networks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import CrossModalSegBatch
import numpy as np
import psutil
import pytest

from CrossModalSegLib.batch import BatchSettings, run_batch
from CrossModalSegLib.batch.inputs import are_others, as_they_are
from CrossModalSegLib.batch.report import Outcome
from CrossModalSegLib.batch.run import Batch
from CrossModalSegLib.cohort import Case, Cohort, read_cohort, write_cohort
from CrossModalSegLib.io import read_segmentation, read_volume, write_volume
from CrossModalSegLib.labels import UNLABELLED, LabelTable, ScribbleConvention
from CrossModalSegLib.volume import Volume, same_geometry
from CrossModalSegLib.worker.client import WorkerClient
from grids import grid_affine
from two_boxes import SHAPE, mask_array, scribble_array

SCRIPT = Path(CrossModalSegBatch.__file__)
TABLE = LabelTable.from_names(["GTV", "Hirnstamm"])
CT_GRID = grid_affine((2, 2, 4), (0.2, -0.1, 0.3), (-20, 12, 5))
MR_GRID = grid_affine((2.5, 2.2, 4.5), (0.1, 0, 0.35), (-22, 11, 3))  # another grid, about the same place
NAMES = ("Fall ä 1", "case 2", "case 3")


def write_volumes(folder: Path, seed: int) -> dict[str, Path]:
    noise = np.random.default_rng(seed).normal(0, 10, (2, *SHAPE)).astype(np.float32)
    volumes = {
        "ct": Volume(noise[0] + 60 * mask_array(), CT_GRID),
        "mr": Volume((noise[1] + 200 + 60 * mask_array())[:, :22, :23], MR_GRID),
        "scribbles": Volume(scribble_array(), CT_GRID),
    }
    paths = {name: folder / f"{name}.nii.gz" for name in volumes}
    for name, volume in volumes.items():
        write_volume(volume, paths[name])
    return paths


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three cases in a folder whose name has a space and is not ASCII."""
    cases = []
    for seed, name in enumerate(NAMES):
        paths = write_volumes(tmp_path / "Bilder ü" / name, seed)
        cases.append(Case(name, {"ct": paths["ct"], "mr": paths["mr"]}, paths["scribbles"]))
    file = tmp_path / "Bilder ü" / "cohort.json"
    write_cohort(Cohort(("ct", "mr"), TABLE, ScribbleConvention.INTERNAL, tuple(cases), file.parent), file)
    return file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="the worker needs torch")
    from tiny_models import write_models

    return write_models(tmp_path_factory.mktemp("Modelle ß"), TABLE, "mr")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory):
    """One for several batches within this process: to start it takes longest."""
    client = WorkerClient(jobs_folder=tmp_path_factory.mktemp("jobs"))
    end, client.stop = client.stop, lambda: None
    yield client
    end()


@pytest.fixture
def batch(worker, monkeypatch):
    """The script's main function, with that worker."""
    monkeypatch.setattr("CrossModalSegLib.worker.client.WorkerClient", lambda command: worker)
    return lambda *words: CrossModalSegBatch.main([str(word) for word in words])


def begin(*words: object) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=os.environ | {"PYTHONUTF8": "1"}
    )


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "report.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def times(out: Path, *cases: str) -> list[int]:
    return [path.stat().st_mtime_ns for case in cases for path in sorted((out / case).iterdir())]


# --- the three actions ------------------------------------------------------------------------------------------------


def test_segment_goes_on_after_a_broken_case_which_resume_does_once_it_is_whole(
    cohort, models, tmp_path, batch, capsys
) -> None:
    broken, out = cohort.parent / "case 2" / "mr.nii.gz", tmp_path / "Ergebnis ö"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    words = ("segment", "--cohort", cohort, "--model", models / "plain", "--out", out, "--uncertainty")
    assert batch(*words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["[1/3] Fall ä 1", "[2/3] case 2", "[3/3] case 3"]
    assert "done in" in lines[0] and " left)" in lines[0]
    assert "failed: In the case 'case 2': " in lines[1] or "failed: '" in lines[1]
    assert lines[3] == f"2 of 3 cases are done: {out}"
    assert sorted(path.name for path in out.iterdir()) == ["Fall ä 1", "case 3", "report.csv", "report.json"]
    files = ["case.json", "segmentation.nii.gz", "segmentation.seg.nrrd", "segmentation_uncertainty.nii.gz"]
    assert sorted(path.name for path in (out / "case 3").iterdir()) == files
    mr = read_volume(cohort.parent / "case 3" / "mr.nii.gz")
    labels, table = read_segmentation(out / "case 3" / "segmentation.seg.nrrd")
    plain = read_volume(out / "case 3" / "segmentation.nii.gz")
    assert same_geometry(plain, mr) and same_geometry(labels, mr) and table.names == TABLE.names
    np.testing.assert_array_equal(plain.array, labels.array)
    assert report(out)["counts"] == {"done": 2, "failed": 1, "open": 0}
    assert [(row["case"], row["status"], row["structure"]) for row in rows(out)] == [
        ("Fall ä 1", "done", "GTV"),
        ("Fall ä 1", "done", "Hirnstamm"),
        ("case 2", "failed", ""),
        ("case 3", "done", "GTV"),
        ("case 3", "done", "Hirnstamm"),
    ]
    assert float(rows(out)[0]["ml"]) == pytest.approx(
        np.count_nonzero(read_volume(out / "Fall ä 1" / "segmentation.nii.gz").array == 1) * mr.voxel_ml, abs=1e-3
    )

    broken.write_bytes(whole)
    before = times(out, "Fall ä 1", "case 3")
    assert batch(*words, "--resume") == 0
    assert capsys.readouterr().out.splitlines()[0] == "[1/3] Fall ä 1: was finished before"
    assert times(out, "Fall ä 1", "case 3") == before
    assert report(out)["counts"] == {"done": 3, "failed": 0, "open": 0}


def test_refer_takes_the_reference_that_is_named_and_writes_each_volume_on_its_own_grid(
    cohort, models, tmp_path, batch
) -> None:
    words = ("refer", "--cohort", cohort, "--model", models / "refer", "--device", "cpu")
    assert batch(*words, "--out", tmp_path / "a", "--reference", "mr") == 1  # the scribbles are not on its grid
    assert [row["status"] for row in rows(tmp_path / "a")] == ["failed"] * 3
    assert all("scribbles" in row["message"] for row in rows(tmp_path / "a"))
    assert batch(*words, "--out", tmp_path / "b", "--reference", "ct", "--probabilities") == 0
    for name in ("ct", "mr"):
        image = read_volume(cohort.parent / NAMES[0] / f"{name}.nii.gz")
        labels, _ = read_segmentation(tmp_path / "b" / NAMES[0] / f"{name}.seg.nrrd")
        assert same_geometry(labels, image)
        assert same_geometry(read_volume(tmp_path / "b" / NAMES[0] / f"{name}_probability_2_Hirnstamm.nii.gz"), image)
    first = read_volume(tmp_path / "b" / NAMES[0] / "ct.nii.gz").array
    drawn = (scribble_array() != UNLABELLED) & (scribble_array() != 0)
    np.testing.assert_array_equal(first[drawn], scribble_array()[drawn])


def test_a_killed_batch_and_a_killed_worker_are_gone_on_from(cohort, models, tmp_path, batch, capsys) -> None:
    out = tmp_path / "out"
    words = ("fit", "--cohort", cohort, "--model", models / "prior", "--out", out, "--seconds", "0")

    process = begin(*words)
    assert process.stdout.readline().startswith("[1/3] Fall ä 1: done in")
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert report(out)["counts"] == {"done": 1, "failed": 0, "open": 2}
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert workers and not alive
    (out / ".partial-0123abcd-case 2").mkdir()
    (out / ".partial-0123abcd-report.csv").touch()
    before = times(out, "Fall ä 1")

    process = begin(*words, "--resume")
    assert process.stdout.readline() == "[1/3] Fall ä 1: was finished before\n"
    for worker in psutil.Process(process.pid).children(recursive=True):
        worker.kill()
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert said.startswith("[2/3] case 2: failed: The worker")
    assert "\n[3/3] case 3: done in" in said
    assert sorted(path.name for path in out.iterdir()) == ["Fall ä 1", "case 3", "report.csv", "report.json"]
    assert report(out)["counts"] == {"done": 2, "failed": 1, "open": 0}

    assert batch(*words, "--resume") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("[2/3] case 2: done in")
    assert times(out, "Fall ä 1") == before
    found = read_volume(out / "case 2" / "segmentation.nii.gz").array
    drawn = (scribble_array() != UNLABELLED) & (scribble_array() != 0)
    np.testing.assert_array_equal(found[drawn], scribble_array()[drawn])


def test_ctrl_c_ends_with_130_and_leaves_what_is_done(cohort, models, tmp_path) -> None:
    out = tmp_path / "out"
    process = begin("fit", "--cohort", cohort, "--model", models / "prior", "--out", out, "--seconds", "60")
    until_written = time.monotonic() + 120
    while not (out / "report.csv").exists():
        assert time.monotonic() < until_written
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert err == "error: Stopped on request; add --resume to go on.\n"
    assert sorted(path.name for path in out.iterdir()) == ["report.csv", "report.json"]
    assert report(out)["counts"] == {"done": 0, "failed": 0, "open": 3}


# --- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "The following arguments are required: segment|refer|fit"),
        (["train"], "Argument segment|refer|fit: invalid choice: 'train'"),
        (
            ["segment", "--cohort", "COHORT", "--out", "OUT"],
            "The following arguments are required: --model; `CrossModalSegBatch.py segment --help` lists",
        ),
        (["fit", "--cohort", "COHORT", "--out", "OUT", "--res"], "Unrecognized arguments: --res"),
        (["fit", "--cohort", "COHORT", "--out", "OUT", "--seconds", "soon"], "invalid float value: 'soon'"),
        (["fit", "--cohort", "COHORT", "--out", "OUT", "--seconds", "nan"], "--seconds should be a number of seconds"),
        (["fit", "--cohort", "COHORT", "--out", "OUT", "--seed", "-1"], "--seed should be 0 or above, got -1."),
        (["fit", "--cohort", "COHORT", "--out", "OUT", "--device", "tpu"], "The device 'tpu' is not there; this"),
        (["fit", "--cohort", "none.json", "--out", "OUT"], "The file 'none.json' does not exist."),
        (["fit", "--cohort", "COHORT", "--out", "FILE"], "but a file of that name exists"),
        (["fit", "--cohort", "COHORT", "--out", "FULL"], "is not empty. Name another one, or add --resume"),
        (["fit", "--cohort", "COHORT", "--out", "FULL", "--resume"], "holds files but no report.json of an earlier"),
    ],
)
def test_wrong_arguments_end_with_2_and_a_sentence_and_write_nothing(words, sentence, cohort, tmp_path, capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    known = {"COHORT": cohort, "OUT": tmp_path / "out", "FULL": tmp_path / "full", "FILE": tmp_path / "full" / "file"}
    assert CrossModalSegBatch.main([str(known.get(word, word)) for word in words]) == 2
    told = capsys.readouterr()
    assert sentence in told.err and told.err.startswith("error: ") and "Traceback" not in told.err
    assert told.out == "" and told.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Bilder ü", "full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_a_model_for_something_else_and_images_that_are_not_there_are_refused(
    cohort, models, tmp_path, batch, capsys
) -> None:
    for words, sentence in (
        (["segment", "--model", models / "refer"], "is made for `refer`, not for `segment`"),
        (["segment", "--model", models / "none"], "none"),
        (["segment", "--model", models / "plain", "--modalities", "ct", "pet"], "There is no image 'pet'"),
        (["refer", "--model", models / "refer", "--reference", "dwi"], "There is no image 'dwi'"),
        (["refer", "--model", models / "refer", "--modalities", "ct"], "no image beside the reference 'ct'"),
    ):
        assert batch(*words, "--cohort", cohort, "--out", tmp_path / "out") == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_go_on_in_the_same_folder(cohort, models, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text('{"settings": {"action": "fit"}}')
    words = ["segment", "--cohort", cohort, "--out", tmp_path / "out", "--model", models / "plain", "--resume"]
    assert CrossModalSegBatch.main([str(word) for word in words]) == 2
    assert "was made with other settings (action, model" in capsys.readouterr().err


def test_finished_cases_whose_files_are_others_now_are_named_and_stay(cohort, models, tmp_path, batch, capsys) -> None:
    out = tmp_path / "out"
    words = ("segment", "--cohort", cohort, "--model", models / "plain", "--out", out)
    assert batch(*words) == 0
    before = times(out, *NAMES)
    text = cohort.read_text(encoding="utf-8")
    moved = cohort.parent.rename(tmp_path / "moved")
    os.utime(moved / "case 2" / "mr.nii.gz", (0, 0))  # as a copy that does not keep it
    assert batch("segment", "--cohort", moved / cohort.name, *words[3:], "--resume") == 0
    (moved / cohort.name).write_text(text.replace('"case 2"', '"x"').replace('"case 3"', '"case 2"'), encoding="utf-8")
    capsys.readouterr()
    assert batch("segment", "--cohort", moved / cohort.name, *words[3:], "--resume") == 2
    assert "or are those of other cases: case 2. Remove their folders from " in capsys.readouterr().err
    assert times(out, *NAMES) == before


def test_another_model_under_the_same_name_does_not_go_on(cohort, models, tmp_path, batch, capsys) -> None:
    model, out = Path(shutil.copytree(models / "plain", tmp_path / "model")), tmp_path / "out"
    words = ("segment", "--cohort", cohort, "--model", model, "--out", out)
    assert batch(*words) == 0
    assert batch(*words, "--resume") == 0
    from CrossModalSegLib.inference.model_folder import load_model, save_model

    loaded = load_model(model)
    next(loaded.network.parameters()).data.mul_(1.5)
    save_model(model, loaded.network, loaded.card, overwrite=True)
    capsys.readouterr()
    assert batch(*words, "--resume") == 2
    assert "the model of finished cases have changed since" in capsys.readouterr().err


def test_files_are_others_where_their_content_is(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(b"1234")
    known = as_they_are(files)
    assert not are_others(files, known)
    os.utime(files[0], (0, 0))
    assert not are_others(files, known)
    files[1].write_bytes(b"4321")
    os.utime(files[1], (1, 1))
    assert are_others(files, known) and are_others(files[:1], known)
    files[1].unlink()
    assert not are_others(files, known)  # nobody can tell


def test_cases_whose_folders_some_systems_would_mix_up_are_refused(cohort, tmp_path, capsys) -> None:
    cohort.write_text(cohort.read_text(encoding="utf-8").replace('"case 3"', '"Case 2"'), encoding="utf-8")
    assert CrossModalSegBatch.main(["fit", "--cohort", str(cohort), "--out", str(tmp_path / "out")]) == 2
    assert "'case 2' and 'Case 2' would have the same name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- around it --------------------------------------------------------------------------------------------------------


def test_cases_that_fail_do_not_shorten_the_time_that_is_left(cohort, tmp_path, monkeypatch) -> None:
    status = dict(zip(NAMES, ("done", "failed", "done")))
    seconds = {"done": 60.0, "failed": 0.1}

    def outcome(_batch: object, case: Case) -> Outcome:
        return Outcome(case.name, status[case.name], seconds[status[case.name]])

    monkeypatch.setattr("CrossModalSegLib.batch.run._outcome", outcome)
    settings, lines = BatchSettings("fit"), []
    batch = Batch(read_cohort(cohort), settings, ("ct",), None, tmp_path / "o", None, lambda: None)
    assert run_batch(batch, lines.append) == 1
    assert lines[0].endswith("done in 1 min 0 s (about 2 min 0 s left)")
    assert lines[1].endswith(" (about 1 min 0 s left)")
    assert lines[2].endswith("done in 1 min 0 s")


def test_inside_of_slicer_the_application_ends_with_the_exit_code(monkeypatch) -> None:
    """Slicer executes the text of the script in its console's own namespace."""
    ended = []
    inside = types.SimpleNamespace(app=object(), util=types.SimpleNamespace(exit=ended.append))
    monkeypatch.setitem(sys.modules, "slicer", inside)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--", "fit", "--cohort", "none.json", "--out", "out"])
    exec(SCRIPT.read_text(encoding="ascii"), {"__name__": "__main__", "__file__": str(SCRIPT)})
    assert ended == [2]


def test_inside_of_slicer_the_application_ends_after_an_error_that_nobody_foresaw(monkeypatch) -> None:
    """Slicer prints it, and would go on without a window."""

    def fail(*_args) -> None:
        raise RuntimeError("unforeseen")

    ended = []
    inside = types.SimpleNamespace(app=object(), util=types.SimpleNamespace(exit=ended.append))
    monkeypatch.setitem(sys.modules, "slicer", inside)
    monkeypatch.setattr("CrossModalSegLib.cli.cohorts.read_any_cohort", fail)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "fit", "--cohort", "none.json", "--out", "out"])
    with pytest.raises(RuntimeError, match="unforeseen"):
        exec(SCRIPT.read_text(encoding="ascii"), {"__name__": "__main__", "__file__": str(SCRIPT)})
    assert ended == [1]


def test_without_the_library_a_sentence_says_so() -> None:
    code = "import sys, runpy\nsys.modules['CrossModalSegLib'] = None\n"
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    words = ["fit", "--cohort", "c", "--out", "o"]
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: The library CrossModalSegLib cannot be used")


def test_torch_stays_in_the_worker() -> None:
    code = "import sys, CrossModalSegLib.batch, CrossModalSegLib.cli.cohorts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
