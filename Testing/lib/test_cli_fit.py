"""fit and demo: what they check before long work, what they write, and nothing on failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from cli_support import SHAPE, affine, content, image_array, mask_array, run, scribble_array, write_case

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.fitting import fit_case as fitting
from CrossModalSegLib.io import read_segmentation, read_volume, write_segmentation, write_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume, same_geometry

FIT_FILES = {"segmentation.nii.gz", "segmentation.seg.nrrd", "overlay.png", "curve.png", "report.json"}


class FakeFit:
    """Stands in for the fit: remembers what it was given and answers with a fixed label map."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.answer: Callable[[Volume], np.ndarray] = lambda grid: np.zeros(grid.shape, np.uint8)
        self.during: Callable[[], None] = lambda: None

    def __call__(self, loaded: Any, table: LabelTable, config: Any, **options: Any) -> fitting.FitResult:
        self.calls.append({"loaded": loaded, "table": table, "config": config, **options})
        labels = loaded.grid.with_array(self.answer(loaded.grid))
        stage = fitting.Stage("first answer", 0.5, 0.9, True)
        if options.get("on_preview") is not None:
            options["on_preview"](labels, stage)
        self.during()
        shares = np.full((table.num_classes, *loaded.grid.shape), 1 / table.num_classes, np.float32)
        wanted = options.get("probabilities", False)
        history = [{"step": 1, "total": 1.0}, {"step": 2, "total": 0.5}]
        return fitting.FitResult(labels, shares if wanted else None, None, None, None, history, [stage])


@pytest.fixture
def fake_fit(monkeypatch: pytest.MonkeyPatch) -> FakeFit:
    fake = FakeFit()
    monkeypatch.setattr(fitting, "fit_case", fake)
    return fake


def words_for(paths: dict[str, Path], out: Path, **replaced: object) -> list[object]:
    given = {"ct": paths["ct"], "mr": paths["mr"], "scribbles": paths["scribbles"], "out": out} | replaced
    return ["fit", "--quiet", *(word for name, value in given.items() if value for word in (f"--{name}", value))]


def test_fit_writes_a_whole_folder(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    fake_fit.answer = lambda _: mask_array()
    out = tmp_path / "Ergebnis ü"
    result = run(capsys, *words_for(paths, out), "--labels", "GTV", "brainstem", "--probabilities")
    assert result.code == 0
    assert content(out) == FIT_FILES | {
        "probability_0_background.nii.gz",
        "probability_1_GTV.nii.gz",
        "probability_2_brainstem.nii.gz",
    }
    labels, table = read_segmentation(out / "segmentation.seg.nrrd")
    assert table.names == ("GTV", "brainstem")
    assert np.array_equal(labels.array, mask_array())
    assert same_geometry(labels, read_volume(paths["ct"]))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["answers"][0]["agreement"] == 0.9
    assert report["device"] == "cpu"
    assert "GTV: 3.1 ml" in result.out


def test_fit_passes_what_was_asked_for(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    options = (
        "--minutes",
        0.5,
        "--method",
        "pce",
        "--seed",
        7,
        "--preview-every",
        12,
        "--model",
        "m",
        "--device",
        "cpu",
    )
    assert run(capsys, *words_for(paths, tmp_path / "o"), *options).code == 0
    call = fake_fit.calls[0]
    config = call["config"]
    assert (config.seconds, config.method, config.seed, config.preview_every) == (30.0, "pce", 7, 12.0)
    assert call["prior"] == "m"
    assert list(call["loaded"].images) == ["ct", "mr"]
    assert np.array_equal(call["loaded"].scribbles.array, scribble_array())
    assert call["table"].names == ("label 1", "label 2")


def test_a_single_image_of_any_kind(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    assert run(capsys, *words_for(paths, tmp_path / "o", ct=None, mr=None, image=paths["mr"])).code == 0
    assert list(fake_fit.calls[0]["loaded"].images) == ["image"]


def test_other_scribble_conventions(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    internal = scribble_array()
    painted = np.where(internal == 255, 0, np.where(internal == 0, 9, internal)).astype(np.uint8)
    write_volume(Volume(painted, affine()), paths["scribbles"])
    words = words_for(paths, tmp_path / "o")
    assert "no voxel has the value 255 for 'not drawn'; they hold 0, 1, 2, 9" in run(capsys, *words).error
    assert "9" in run(capsys, *words, "--unlabelled", 0, "--background", 8).error
    assert not fake_fit.calls
    assert run(capsys, *words, "--unlabelled", 0, "--background", 9).code == 0
    assert np.array_equal(fake_fit.calls[0]["loaded"].scribbles.array, internal)


def test_an_image_given_as_scribbles_is_told_in_one_short_sentence(
    fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    image = np.where(scribble_array() == 255, 255, 2 * np.arange(scribble_array().size).reshape(scribble_array().shape))
    write_volume(Volume(image.astype(np.int16), affine()), paths["scribbles"])
    error = run(capsys, *words_for(paths, tmp_path / "o")).error
    assert "should be 1, 2, 3, …, but the file holds" in error and "and others. Say with" in error
    assert len(error) < 400 + len(str(paths["scribbles"])) and not fake_fit.calls


def test_segments_are_matched_by_name(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    internal = scribble_array()
    segments = np.choose(np.where(internal == 255, 3, internal), [1, 2, 3, 0]).astype(np.uint8)
    path = tmp_path / "von Slicer.seg.nrrd"
    write_segmentation(Volume(segments, affine()), LabelTable.from_names(["background", "Tumor ä", "Stem"]), path)
    assert run(capsys, *words_for(paths, tmp_path / "o", scribbles=path)).code == 0
    assert fake_fit.calls[0]["table"].names == ("Tumor ä", "Stem")
    assert np.array_equal(fake_fit.calls[0]["loaded"].scribbles.array, internal)


def test_previews_stand_beside_the_output_until_it_is_there(
    fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    preview = tmp_path / "o-preview.seg.nrrd"
    seen = []
    fake_fit.during = lambda: seen.append(preview.is_file())
    result = run(capsys, *words_for(paths, tmp_path / "o"))
    assert result.code == 0
    assert "first answer after 0 s" in result.out
    assert seen == [True]
    assert not preview.exists()


def test_a_stopped_fit_leaves_only_its_complete_preview(
    fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    paths = write_case(tmp_path)
    before = content(tmp_path)
    fake_fit.during = stop
    assert run(capsys, *words_for(paths, tmp_path / "o")).code == 130
    assert content(tmp_path) - before == {"o-preview.seg.nrrd"}
    (tmp_path / "o-preview.seg.nrrd").unlink()
    assert run(capsys, *words_for(paths, tmp_path / "o"), "--preview-every", 0).code == 130
    assert content(tmp_path) == before


def test_a_failed_fit_leaves_nothing(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise InputError("It went wrong.")

    paths = write_case(tmp_path)
    before = content(tmp_path)
    fake_fit.during = fail
    result = run(capsys, *words_for(paths, tmp_path / "o"))
    assert result.code == 2
    assert "It went wrong." in result.err
    assert content(tmp_path) == before


def _other_grid(paths: dict[str, Path]) -> None:
    write_volume(Volume(image_array(2), affine((-18.0, -20.0, 0.0))), paths["mr"])


def _nan(paths: dict[str, Path]) -> None:
    array = image_array(1)
    array[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(paths["ct"]))


def _constant(paths: dict[str, Path]) -> None:
    write_volume(Volume(np.full(SHAPE, 7, np.int16), affine()), paths["mr"])


def _far_away(name: str) -> Callable[[dict[str, Path]], None]:
    def apply(paths: dict[str, Path]) -> None:
        volume = read_volume(paths[name])
        moved = volume.affine.copy()
        moved[:3, 3] += 1000
        write_volume(Volume(volume.array, moved), paths[name])

    return apply


def _scribbles(change: Callable[[np.ndarray], None]) -> Callable[[dict[str, Path]], None]:
    def apply(paths: dict[str, Path]) -> None:
        array = scribble_array()
        change(array)
        write_volume(Volume(array, affine()), paths["scribbles"])

    return apply


def _truncate(paths: dict[str, Path]) -> None:
    paths["ct"].write_bytes(paths["ct"].read_bytes()[:2000])


def _no_background(array: np.ndarray) -> None:
    array[array == 0] = 255


def _no_class_1(array: np.ndarray) -> None:
    array[array == 1] = 255


def _all_empty(array: np.ndarray) -> None:
    array[:] = 255


def _foreign_value(array: np.ndarray) -> None:
    array[0, 0, 0] = 77


@pytest.mark.parametrize(
    ("spoil", "words", "messages"),
    [
        (_other_grid, (), ("'ct' and 'mr' should share one grid", "spacing", "--resample")),
        (_nan, (), ("ct.nii.gz", "NaN")),
        (_truncate, (), ("ct.nii.gz",)),
        (_constant, (), ("'mr' is constant: all of its voxels are 7",)),
        (_far_away("mr"), ("--resample",), ("'mr' lies outside of 'ct'", "Register it first")),
        (_far_away("scribbles"), ("--resample",), ("'scribbles' lies outside of 'ct'",)),
        (_scribbles(_no_background), (), ("background scribble",)),
        (_scribbles(_no_class_1), ("--labels", "GTV", "stem"), ("no scribble of GTV",)),
        (_scribbles(_all_empty), (), ("no class",)),
        (_scribbles(_all_empty), ("--labels", "GTV", "stem"), ("empty",)),
        (_scribbles(_foreign_value), ("--labels", "a", "b"), ("error: The scribbles hold", "77", "1 to 2 are")),
        (_scribbles(_foreign_value), (), ("holds 1, 2, 77", "--labels")),
        (lambda _: None, ("--labels", "background", "GTV"), ("'background' is always 0", "leave it out")),
        (lambda _: None, ("--labels", "GTV"), ("value 2", "1 to 1 are classes")),
        (lambda _: None, ("--unlabelled", "0"), ("value 0",)),
        (lambda _: None, ("--minutes", "-1"), ("--minutes should be 0 or above",)),
        (lambda _: None, ("--preview-every", "nan"), ("--preview-every should be 0 or above",)),
        (lambda _: None, ("--minutes", "inf"), ("--minutes should be 0 or above and finite",)),
        (lambda _: None, ("--minutes", "0", "--method", "pce"), ('--minutes 0 is for "cmfnet"',)),
        (lambda _: None, ("--minutes", "0", "--method", "scratch"), ("random weights",)),
        (lambda _: None, ("--seed", "-1"), ("--seed should be a whole number from 0",)),
        (lambda _: None, ("--image", "x.nii.gz"), ("either --image, or --ct and --mr",)),
        (lambda _: None, ("--device", "abacus"), ("no device 'abacus'",)),
        (lambda _: None, ("--device", "cuda:99"), ("'cuda:99' is not there", "doctor")),
        (lambda paths: paths["scribbles"].unlink(), (), ("scribbles.nii.gz",)),
        (lambda paths: paths["mr"].unlink(), (), ("There is no MR", "mr.nii.gz")),
    ],
)
def test_bad_input_is_a_sentence_and_nothing_is_written(
    spoil: Callable[[dict[str, Path]], None],
    words: tuple[str, ...],
    messages: tuple[str, ...],
    fake_fit: FakeFit,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = write_case(tmp_path)
    spoil(paths)
    before = content(tmp_path)
    error = run(capsys, *words_for(paths, tmp_path / "o"), *words).error
    assert all(message in error for message in messages), error
    assert not fake_fit.calls
    assert content(tmp_path) == before


def test_resample_brings_other_grids_together(
    fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    _other_grid(paths)
    assert run(capsys, *words_for(paths, tmp_path / "o"), "--resample").code == 0
    images = fake_fit.calls[0]["loaded"].images
    assert same_geometry(images["ct"], images["mr"])


def test_an_existing_output_is_kept(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "notes.txt").write_text("mine")
    assert "--overwrite" in run(capsys, *words_for(paths, tmp_path / "o")).error
    assert content(tmp_path / "o") == {"notes.txt"}
    assert run(capsys, *words_for(paths, tmp_path / "o"), "--overwrite").code == 0
    assert content(tmp_path / "o") == FIT_FILES


@pytest.mark.parametrize("name", ["ct", "mr", "scribbles"])
def test_overwrite_never_takes_an_input_away(
    name: str, fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    (tmp_path / "o").mkdir()
    paths[name] = paths[name].rename(tmp_path / "o" / f"{name}.nii.gz")
    before = content(tmp_path)
    assert "would take away the input" in run(capsys, *words_for(paths, tmp_path / "o"), "--overwrite").error
    paths[name].with_name("link").symlink_to(tmp_path)
    assert "would take away" in run(capsys, *words_for(paths, paths[name].parent), "--overwrite").error
    assert content(tmp_path) >= before
    assert not fake_fit.calls


@pytest.mark.parametrize("words", [(), ("--overwrite",)])
def test_the_working_and_the_home_folder_are_refused_before_work(
    words: tuple[str, ...],
    fake_fit: FakeFit,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = write_case(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for out in (Path(), Path(".."), tmp_path / "work", tmp_path / "home", Path("/")):
        assert "working or home folder" in run(capsys, *words_for(paths, out), *words).error
    assert not fake_fit.calls


def test_a_foreign_preview_is_kept(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    preview = tmp_path / "o-preview.seg.nrrd"
    preview.write_bytes(b"mine")
    assert "--preview-every 0" in run(capsys, *words_for(paths, tmp_path / "o")).error
    assert not fake_fit.calls
    assert run(capsys, *words_for(paths, tmp_path / "o"), "--preview-every", 0).code == 0
    assert preview.read_bytes() == b"mine"
    assert run(capsys, *words_for(paths, tmp_path / "p"), "--overwrite").code == 0
    preview.write_bytes(b"mine")
    words = words_for(paths, tmp_path / "o", scribbles=preview)
    assert "take away the input" in run(capsys, *words, "--overwrite").error
    assert preview.read_bytes() == b"mine"


def test_a_tilted_gantry_gives_nrrd_files(
    fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheared = affine()
    sheared[1, 2] = 1.5
    paths = {name: tmp_path / f"{name}.nrrd" for name in ("ct", "mr", "scribbles")}
    for name, array in (("ct", image_array(1)), ("mr", image_array(2)), ("scribbles", scribble_array())):
        write_volume(Volume(array, sheared), paths[name])
    fake_fit.answer = lambda _: mask_array()
    result = run(capsys, *words_for(paths, tmp_path / "o"), "--probabilities")
    assert result.code == 0
    assert "tilted gantry" in result.out
    assert {"segmentation.nrrd", "segmentation.seg.nrrd", "probability_1_label_1.nrrd"} <= content(tmp_path / "o")
    for name in ("segmentation.nrrd", "segmentation.seg.nrrd"):
        labels, _ = read_segmentation(tmp_path / "o" / name)
        assert np.array_equal(labels.array, mask_array())
        assert np.allclose(labels.affine, sheared)


def test_out_of_memory_is_a_sentence(fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    paths = write_case(tmp_path)
    fake_fit.during = fail
    words = (*words_for(paths, tmp_path / "o"), "--preview-every", 0)
    assert "not enough memory" in run(capsys, *words).error


def test_a_real_fit_ends_with_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    result = run(capsys, *words_for(paths, tmp_path / "o"), "--method", "pce", "--minutes", 0.001, "--device", "cpu")
    assert result.code == 0
    labels = read_volume(tmp_path / "o" / "segmentation.nii.gz").array
    drawn = scribble_array() != 255
    assert labels.shape == SHAPE
    assert np.array_equal(labels[drawn], scribble_array()[drawn])


def test_demo_writes_everything_and_shows_three_methods(
    fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "Vorführung 1"
    result = run(capsys, "demo", "--out", out, "--seed", 3, "--quiet")
    assert result.code == 0
    assert content(out) == FIT_FILES | {"ct.nii.gz", "mr.nii.gz", "scribbles.nii.gz", "mask.nii.gz"}
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    starts = {name: method["starts_from"] for name, method in report["methods"].items()}
    assert set(starts) == {"cmfnet", "scratch", "pce"}
    assert "prior" in starts["cmfnet"]
    assert starts["scratch"] == starts["pce"] == "random weights"
    assert report["methods"]["cmfnet"]["device"] == "cpu"
    figures = report["methods"]["cmfnet"]["labels"][0]
    assert {"dsc", "asd_mm", "hd95_mm", "nsd@1mm", "nsd@2mm"} <= set(figures)
    assert report["seed"] == 3
    assert "torch" in report["versions"]
    stages = {stage["name"] for stage in report["seconds"]["stages"]}
    assert stages >= {"simulate", "fit cmfnet", "fit scratch", "fit pce", "measure"}
    assert "CmFNet from scratch" in result.out
    assert "partial cross-entropy" in result.out
    assert str(out / "overlay.png") in result.out
    assert [call["config"].method for call in fake_fit.calls] == ["cmfnet", "scratch", "pce"]
    assert all(call["loaded"].mask is None for call in fake_fit.calls), "a fit never sees the mask it is measured by"


def test_demo_stops_before_work_at_an_existing_folder(
    fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert "--overwrite" in run(capsys, "demo", "--out", tmp_path).error
    assert "a file of that name exists" in run(capsys, "demo", "--out", tmp_path / "file").error
    assert "--seconds" in run(capsys, "demo", "--out", tmp_path / "new", "--seconds", 0).error
    assert "finite" in run(capsys, "demo", "--out", tmp_path / "new", "--seconds", "inf").error
    assert "--seed" in run(capsys, "demo", "--out", tmp_path / "new", "--seed", -1).error
    assert content(tmp_path) == {"file"}
    assert not fake_fit.calls


def test_demo_leaves_nothing_when_stopped(
    fake_fit: FakeFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    fake_fit.during = stop
    assert run(capsys, "demo", "--out", tmp_path / "demo", "--quiet").code == 130
    assert content(tmp_path) == set()
