"""refer: what it writes, what it says, and nothing on failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cli_support import content, run
from referring_support import affine_of, card, noise, reordered, saved_model, strokes, tiny_model

from CrossModalSegLib.cli import refer_files
from CrossModalSegLib.cli.refer_files import Referred, result_names
from CrossModalSegLib.inference import model_folder
from CrossModalSegLib.inference.model_folder import save_model
from CrossModalSegLib.inference.referring import ReferResult
from CrossModalSegLib.inference.referring import session as sessions
from CrossModalSegLib.inference.referring.tuning import TuningReport
from CrossModalSegLib.io import read_segmentation, read_volume, write_segmentation, write_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.factory import build_network
from CrossModalSegLib.report import write_refer_overlay
from CrossModalSegLib.volume import Volume, same_geometry

Files = dict[str, Path]
TARGET = reordered(noise((4, 18, 22), 1, affine_of((2.0, 1.5, 6.0), (0.2, 0.1, 0.0))), (2, 0, 1), (True, False, True))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Two images and scribbles, in a folder whose name has a space and is not ASCII; no picture, which takes long."""
    monkeypatch.setattr(refer_files, "write_refer_overlay", lambda path, *_args: path.write_bytes(b"picture"))
    folder = tmp_path / "Fälle 1"
    folder.mkdir()
    volumes = {"reference": noise(), "target": TARGET, "scribbles": strokes(noise())}
    paths = {name: folder / f"{name}.nii.gz" for name in volumes}
    paths["reference"] = folder / "T1 axial.nii.gz"
    for name, volume in volumes.items():
        write_volume(volume, paths[name])
    return paths


def words_for(files: Files, model: Path | str | None, out: Path, *more: object) -> list[object]:
    words: list[object] = ["refer", "--quiet", "--device", "cpu", "--out", out]
    for name in ("reference", "scribbles", "target"):
        words += [f"--{name}", files[name]]
    return [*words, *(() if model is None else ("--model", model)), *more]


def images_of(*names: str) -> set[str]:
    return {f"{name}{suffix}" for name in names for suffix in (".nii.gz", ".seg.nrrd")}


def test_refer_writes_a_whole_folder(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refer_files, "write_refer_overlay", write_refer_overlay)
    out = tmp_path / "Ergebnis ü"
    far = tmp_path / "target.nii.gz"
    write_volume(noise((3, 17, 17), 4, affine_of(origin=(4000.0, 0.0, 0.0))), far)
    result = run(capsys, *words_for(files, model, out), "--target", far, "--labels", "liver", "spleen")
    assert result.code == 0, result.err
    assert content(out) == {"overlay.png", "report.json"} | images_of("T1 axial", "target", "target_2")
    for name, path in (("T1 axial", files["reference"]), ("target", files["target"]), ("target_2", far)):
        labels, table = read_segmentation(out / f"{name}.seg.nrrd")
        assert table.names == ("liver", "spleen")
        assert same_geometry(labels, read_volume(path))
        assert np.array_equal(read_volume(out / f"{name}.nii.gz").array, labels.array)
    drawn = strokes(noise()).array
    assert np.array_equal(read_volume(out / "T1 axial.nii.gz").array[drawn != 255], drawn[drawn != 255])
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["reference"] == "T1 axial"
    assert {name: each["matching"] for name, each in report["images"].items()} == {
        "T1 axial": "position",
        "target": "position",
        "target_2": "order",
    }
    assert report["images"]["target"]["file"] == str(files["target"])
    assert set(report["images"]["target"]["milliliters"]) == {"liver", "spleen"}
    assert report["not_trained_on"] == []
    assert report["model"]["name"] == "tiny" and len(report["model"]["sha256"]) == 64
    assert set(report["seconds"]) == {"look at the images", "answer"}
    assert "torch" in report["versions"]
    assert "target_2 and the reference do not overlap in patient space, so their slices were matched by order" in (
        result.out
    )
    assert str(out / "overlay.png") in result.out


def test_the_whole_folder_can_be_evaluated(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, masks = tmp_path / "o", tmp_path / "masks"
    options = ("--labels", "liver", "spleen", "--probabilities")
    assert run(capsys, *words_for(files, model, out, *options)).code == 0
    three = LabelTable.from_names(["spleen", "liver", "aorta"])
    for name in ("T1 axial", "target"):
        answer = read_volume(out / f"{name}.nii.gz")
        mask = np.choose(answer.array, [3, 2, 1]).astype(np.uint8)
        write_segmentation(answer.with_array(mask), three, masks / f"{name}.seg.nrrd")
    words = ("--prediction", out, "--mask", masks, "--out", tmp_path / "r.json", "--quiet")
    result = run(capsys, "evaluate", *words)
    assert result.code == 0, result.err
    assert "note: not measured, since the segmentation has no segment of this name: aorta\n" in result.out
    report = json.loads((tmp_path / "r.json").read_text())
    assert (list(report["labels"]), report["mean_dsc"]) == (["liver", "spleen"], 1.0)
    assert [case["left_out"] for case in report["cases"]] == [["aorta"], ["aorta"]]
    write_segmentation(answer, LabelTable.from_names(["liver", "spleen"]), masks / "target.seg.nrrd")
    assert "of this name: aorta (1 of 2 cases)\n" in run(capsys, "evaluate", *words, "--overwrite").out


def test_probabilities_and_the_largest_piece(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--probabilities", "--pieces", "largest", "--slices", "order", "--reference-slices", 1)
    out = tmp_path / "o"
    assert run(capsys, *words_for(files, model, out, *options)).code == 0
    inner = {"probability_0_background.nii.gz", "probability_1_label_1.nii.gz", "probability_2_label_2.nii.gz"}
    for name in ("T1 axial", "target"):
        folder = out / f"{name}_probabilities"
        assert content(folder) == inner
        total = sum(read_volume(path).array for path in folder.iterdir())
        np.testing.assert_allclose(total, 1.0, atol=1e-5)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["images"]["target"]["matching"] == "order"


def test_organs_without_names_are_said(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_for(files, model, tmp_path / "o")
    unnamed = run(capsys, *words)
    assert "called label 1, label 2" in unnamed.out and "not trained on" not in unnamed.out + unnamed.err
    named = run(capsys, *words, "--overwrite", "--labels", "liver", "spleen")
    assert named.code == 0 and "label 1" not in named.out


def test_segments_are_the_organs_by_their_names(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    internal = strokes(noise()).array
    segments = np.select([internal == 0, internal == 1, internal == 2], [1, 2, 3], 0).astype(np.uint8)
    path = tmp_path / "von Slicer.seg.nrrd"
    write_segmentation(noise().with_array(segments), LabelTable.from_names(["Background", "Leber", "Herzmuskel"]), path)
    out = tmp_path / "o"
    result = run(capsys, *words_for({**files, "scribbles": path}, model, out))
    assert result.code == 0
    assert read_segmentation(out / "target.seg.nrrd")[1].names == ("Leber", "Herzmuskel")
    assert "The model tiny was not trained on Herzmuskel, but on liver, spleen." in result.out + result.err
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["not_trained_on"] == ["Herzmuskel"]


def test_painted_label_maps_without_background(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    internal = strokes(noise(), background=False).array
    write_volume(noise().with_array(np.where(internal == 255, 0, internal)), files["scribbles"])
    words = words_for(files, model, tmp_path / "o")
    assert "no voxel has the value 255 for 'not drawn'" in run(capsys, *words).error
    assert run(capsys, *words, "--unlabelled", 0, "--background", 9).code == 0


def test_tuning_is_said(files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, *words_for(files, model, tmp_path / "o", "--tune", 0.3))
    assert result.code == 0
    assert "tuning: in " in result.out or "Nothing is tuned" in result.err
    tuning = json.loads((tmp_path / "o" / "report.json").read_text(encoding="utf-8"))["tuning"]
    assert {"steps", "before", "after", "is_better", "new", "note"} == set(tuning)


def test_organs_that_are_new_to_the_model_are_said() -> None:
    report = TuningReport(40, 0.1, 0.5, True, new=(2,))
    referred = Referred(
        ReferResult({}, {}, {}, report, (), 1.0), None, {}, LabelTable.from_names(["a", "b"]), None, "", 0.0
    )
    assert list(refer_files.lines(referred, "T1")) == [
        "tuning: in 40 steps the agreement with held-out strokes rose from 0.100 to 0.500; new to the model: b"
    ]


def test_the_model_that_ships_is_used_where_none_is_named(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "shipped_models_folder", lambda: tmp_path / "none")
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "models"))
    words = words_for(files, None, tmp_path / "o")
    assert "model 'abdomen-mr', which is used where none is named, is not installed" in run(capsys, *words).error
    save_model(tmp_path / "models" / "abdomen-mr", tiny_model().network, card(name="abdomen-mr"))
    result = run(capsys, *words)
    assert result.code == 0
    assert "note: No model was named: abdomen-mr answers, and names of the organs might choose a better" in result.out
    result = run(capsys, *words, "--overwrite", "--labels", "liver", "spleen")
    assert "note: No model was named: abdomen-mr answers, chosen by the names of the organs.\n" in result.out
    result = run(capsys, *words_for(files, tmp_path / "models" / "abdomen-mr", tmp_path / "p"))
    assert result.code == 0 and "No model was named" not in result.out + result.err


def test_strokes_on_organs_without_names_may_choose_the_other_model(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "shipped_models_folder", lambda: tmp_path / "none")
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "models"))
    blind = replace(card(name="abdomen-mr"), least_presence=1.0)  # finds no organ in any slice
    save_model(tmp_path / "models" / "abdomen-mr", tiny_model().network, blind)
    save_model(tmp_path / "models" / "abdomen-organs", tiny_model().network, card(name="abdomen-organs"))
    words = words_for(files, None, tmp_path / "o")
    result = run(capsys, *words)
    assert "abdomen-organs answers, as abdomen-mr does not see some of what was drawn on.\n" in result.out
    assert json.loads((tmp_path / "o" / "report.json").read_text())["model"]["name"] == "abdomen-organs"
    assert "abdomen-mr answers, chosen by" in run(capsys, *words, "--overwrite", "--labels", "liver", "spleen").out


def test_a_tilted_gantry_gives_nrrd_files(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheared = affine_of()
    sheared[1, 2] = 1.5
    files["target"] = tmp_path / "tilted.nrrd"
    write_volume(noise(seed=3, affine=sheared), files["target"])
    result = run(capsys, *words_for(files, model, tmp_path / "o"))
    assert result.code == 0
    assert "tilted: the image is sheared" in result.out
    assert content(tmp_path / "o") == {"overlay.png", "report.json", "tilted.nrrd", "tilted.seg.nrrd"} | images_of(
        "T1 axial"
    )
    assert np.allclose(read_volume(tmp_path / "o" / "tilted.nrrd").affine, sheared)


def test_what_shows_nothing_of_it_is_said(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "slices_with", lambda *_args: {"label 1": 0, "label 2": 0})
    assert "target: no organ was found" in run(capsys, *words_for(files, model, tmp_path / "o")).out


def test_names_of_results() -> None:
    paths = [Path(p) for p in ("a/reference.nii.gz", "b/T1.NII.GZ", "c/t1.nrrd", "d/dicom", "e/x.seg.nrrd", "f/t1.mha")]
    assert result_names(paths) == ["reference", "T1", "t1_2", "dicom", "x", "t1_3"]
    assert result_names([Path("t1.nii"), Path("Reference.nii")]) == ["t1", "Reference_2"]
    taken = [Path("a. .nii"), Path("b/A"), Path("c:d"), Path("con.nii.gz"), Path("Con"), Path(".nii")]
    assert result_names(taken) == ["a", "A_2", "c_d", "_con", "_Con_2", "image"]


# --- nothing is written -------------------------------------------------------------------------------------------


def _write(name: str, volume: Volume) -> Callable[[Files], None]:
    return lambda files: write_volume(volume, files[name])


def _scribbles(change: Callable[[np.ndarray], None]) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        array = strokes(noise()).array.copy()
        change(array)
        write_volume(noise().with_array(array), files["scribbles"])

    return apply


def _erase(value: int) -> Callable[[np.ndarray], None]:
    return lambda array: array.__setitem__(array == value, 255)


def _colour(files: Files) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 20, 20, 3), np.uint8), isVector=True), str(files["target"]))


def _four_dimensions(files: Files) -> None:
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((4, 20, 20), np.float32))] * 3)
    sitk.WriteImage(image, str(files["target"]))


def _nan(files: Files) -> None:
    array = noise().array.copy()
    array[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(files["reference"]))


CONSTANT = noise().with_array(np.full(noise().shape, 3.0))


@pytest.mark.parametrize(
    ("spoil", "words", "messages"),
    [
        (_scribbles(_erase(2)), ("--labels", "liver", "spleen"), ("no scribble of spleen",)),
        (_scribbles(lambda array: array.fill(255)), ("--labels", "a", "b"), ("scribbles are empty",)),
        (_scribbles(lambda array: array.__setitem__((0, 0, 0), 77)), ("--labels", "a", "b"), ("77", "1 to 2 are")),
        (
            _write("scribbles", strokes(noise((6, 20, 24)))),
            (),
            ("'reference' and 'scribbles' should share one", "(6, 20, 24)"),
        ),
        (_write("target", CONSTANT), (), ("image 'target' is constant",)),
        (_write("reference", CONSTANT), (), ("image 'reference' is constant",)),
        (_colour, (), ("target.nii.gz", "3 values per voxel")),
        (_four_dimensions, (), ("target.nii.gz", "4D")),
        (_nan, (), ("T1 axial.nii.gz", "NaN")),
        (_write("target", noise((40, 1, 40))), (), ("1 by 40 voxels", "has to have thick ones, or be axial")),
        (lambda files: files["target"].unlink(), (), ("target.nii.gz", "does not exist")),
        (lambda files: files["scribbles"].unlink(), (), ("scribbles.nii.gz",)),
        (lambda _: None, ("--tune", "-1"), ("--tune should be 0 or above",)),
        (lambda _: None, ("--reference-slices", "0"), ("--reference-slices should be 1 or above",)),
        (lambda _: None, ("--device", "abacus"), ("no device 'abacus'",)),
        (lambda _: None, ("--model", "nobody"), ("no model folder 'nobody'",)),
        (_write("target", noise(affine=affine_of(origin=(9e3, 0, 0)))), ("--slices", "position"), ("do not overlap",)),
    ],
)
def test_bad_input_is_a_sentence_and_nothing_is_written(
    spoil: Callable[[Files], None],
    words: tuple[str, ...],
    messages: tuple[str, ...],
    files: Files,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(files)
    before = content(tmp_path)
    error = run(capsys, *words_for(files, model, tmp_path / "o"), *words).error
    assert all(message in error for message in messages), error
    assert content(tmp_path) == before


def test_a_model_for_other_inputs_is_refused(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"num_classes": 3, "modalities": 2, "base_channels": 2}
    other = card(name="fusion", architecture="cmfnet", network=config, modalities=("ct", "mr"), slices=None)
    folder = save_model(tmp_path / "cmfnet", build_network("cmfnet", config), other)
    before = content(tmp_path)
    error = run(capsys, *words_for(files, folder, tmp_path / "o")).error
    assert "The model fusion is a cmfnet network" in error and "train crossmr" in error
    assert content(tmp_path) == before


def test_scribbles_on_another_grid_are_moved_on_request(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write("scribbles", strokes(noise((6, 20, 24))))(files)
    words = words_for(files, model, tmp_path / "o")
    assert run(capsys, *words).code == 2
    assert run(capsys, *words, "--resample").code == 0


@pytest.mark.parametrize("name", ["reference", "target", "scribbles", "model"])
def test_overwrite_never_takes_an_input_away(
    name: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o").mkdir()
    model = saved_model((tmp_path / "o" if name == "model" else tmp_path) / "tiny")
    if name != "model":
        files[name] = files[name].rename(tmp_path / "o" / files[name].name)
    before = content(tmp_path)
    error = run(capsys, *words_for(files, model, tmp_path / "o", "--overwrite")).error
    assert "would take away the input" in error
    assert content(tmp_path) == before


def test_an_existing_output_is_replaced_only_on_request(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "notes.txt").write_text("mine")
    assert "--overwrite" in run(capsys, *words_for(files, model, tmp_path / "o")).error
    assert content(tmp_path / "o") == {"notes.txt"}
    assert run(capsys, *words_for(files, model, tmp_path / "o", "--overwrite")).code == 0
    assert "notes.txt" not in content(tmp_path / "o")


def test_an_interrupted_answer_leaves_nothing(
    files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    before = content(tmp_path)
    monkeypatch.setattr(sessions.ReferSession, "refer", stop)
    assert run(capsys, *words_for(files, model, tmp_path / "o")).code == 130
    assert content(tmp_path) == before


def test_a_target_is_needed(files: Files, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["refer", "--reference", files["reference"], "--scribbles", files["scribbles"], "--out", tmp_path / "o"]
    assert "at least one --target" in run(capsys, *words, "--model", model).error
