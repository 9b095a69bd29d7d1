"""segment, evaluate, model, doctor, train: on a tiny network with random weights."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_support import TABLE, affine, content, image_array, mask_array, run, write_case

from CrossModalSegLib.cli import train_cmfnet
from CrossModalSegLib.cohort import Case, Cohort, write_cohort
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import save_model, shipped_models_folder
from CrossModalSegLib.io import read_segmentation, read_volume, write_segmentation, write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.models.factory import build_network, network_config
from CrossModalSegLib.training.config import PRESETS
from CrossModalSegLib.volume import Volume, same_geometry


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for CT and MR with two classes."""
    config = to_dict(network_config("vnet", num_classes=3, modalities=2, base_channels=2))
    torch.manual_seed(0)
    card = ModelCard("tiny", "vnet", config, ("ct", "mr"), TABLE, licence="CC0", metrics={"dice": 0.5})
    return save_model(tmp_path_factory.mktemp("Modelle ö") / "tiny", build_network("vnet", config), card)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A cohort file with two cases."""
    paths = write_case(tmp_path)
    images = {"ct": paths["ct"], "mr": paths["mr"]}
    cases = tuple(Case(name, images, paths["scribbles"], paths["mask"]) for name in ("a", "b"))
    path = tmp_path / "cohort.json"
    write_cohort(Cohort(("ct", "mr"), TABLE, ScribbleConvention.INTERNAL, cases, tmp_path), path)
    return path


def test_segment_one_case(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    out = tmp_path / "o"
    words = ("segment", "--model", model, "--mr", paths["mr"], "--ct", paths["ct"], "--out", out, "--quiet")
    assert run(capsys, *words, "--probabilities", "--uncertainty", "--device", "cpu").code == 0
    assert content(out) == {
        "segmentation.nii.gz",
        "segmentation.seg.nrrd",
        "uncertainty.nii.gz",
        "probability_0_background.nii.gz",
        "probability_1_GTV.nii.gz",
        "probability_2_brainstem.nii.gz",
    }
    labels, table = read_segmentation(out / "segmentation.seg.nrrd")
    assert table == TABLE
    assert same_geometry(labels, read_volume(paths["ct"]))
    shares = [read_volume(path).array for path in sorted(out.glob("probability_*"))]
    assert np.allclose(sum(shares), 1, atol=1e-3)
    assert np.array_equal(np.argmax(shares, axis=0), labels.array)


def test_the_branches_of_cmfnet_answer_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The MR branch sees nothing of the CT."""
    config = to_dict(network_config("cmfnet", num_classes=3, modalities=2, base_channels=2, cfe=False, cff=False))
    torch.manual_seed(0)
    card = ModelCard("mfl", "cmfnet", config, ("ct", "mr"), TABLE)
    folder = save_model(tmp_path / "mfl", build_network("cmfnet", config), card)
    paths = write_case(tmp_path)
    answers = {}
    for branch, ct in itertools.product(("ct", "mr"), ("ct", "mr")):
        out = tmp_path / f"{branch} of {ct}"
        words = ("--ct", paths[ct], "--mr", paths["mr"], "--branch", branch, "--out", out, "--quiet", "--device", "cpu")
        assert run(capsys, "segment", "--model", folder, *words).code == 0
        answers[branch, ct] = read_volume(out / "segmentation.nii.gz").array
    assert np.array_equal(answers["mr", "ct"], answers["mr", "mr"])
    assert not np.array_equal(answers["ct", "ct"], answers["ct", "mr"])


def test_an_image_that_the_model_does_not_use_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = to_dict(network_config("vnet", num_classes=3, modalities=1, base_channels=2))
    folder = save_model(
        tmp_path / "m", build_network("vnet", config), ModelCard("mono", "vnet", config, ("mr",), TABLE)
    )
    paths = write_case(tmp_path)
    words = ("segment", "--model", folder, "--ct", paths["ct"], "--mr", paths["mr"], "--out", tmp_path / "o", "--quiet")
    result = run(capsys, *words, "--device", "cpu")
    assert result.code == 0
    assert result.err.count("does not use the images ct") == 1


def test_images_without_an_option_come_in_a_cohort(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = to_dict(network_config("vnet", num_classes=3, modalities=2, base_channels=2))
    card = ModelCard("two", "vnet", config, ("t1", "t2"), TABLE)
    folder = save_model(tmp_path / "two", build_network("vnet", config), card)
    paths = write_case(tmp_path)
    cases = (Case("a", {"t1": paths["ct"], "t2": paths["mr"]}),)
    write_cohort(Cohort(("t1", "t2"), TABLE, ScribbleConvention.INTERNAL, cases, tmp_path), tmp_path / "c.json")
    words = ("segment", "--model", folder, "--out", tmp_path / "o", "--quiet", "--device", "cpu")
    error = run(capsys, *words, "--ct", paths["ct"], "--mr", paths["mr"]).error
    assert "t1, t2, for which there are no options: list them in a cohort file" in error
    assert run(capsys, *words, "--cohort", tmp_path / "c.json").code == 0


def test_where_a_gpu_is_too_small_the_cpu_segments(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def to(network: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
        if torch.device(device).type == "mps":
            raise RuntimeError("MPS backend out of memory")
        return real(network, device)

    real = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr("CrossModalSegLib.cli.devices.choose_device", lambda name: torch.device("mps"))
    paths = write_case(tmp_path)
    words = ("segment", "--model", model, "--ct", paths["ct"], "--mr", paths["mr"], "--out", tmp_path / "o", "--quiet")
    result = run(capsys, *words)
    assert result.code == 0 and "computed again on the CPU" in result.err


def test_segment_a_cohort_and_evaluate_it(
    model: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert run(capsys, "segment", "--model", model, "--cohort", cohort, "--out", out, "--quiet").code == 0
    assert content(out) == {"a.seg.nrrd", "b.seg.nrrd"}
    words = ("evaluate", "--prediction", out, "--cohort", cohort, "--out", tmp_path / "r.json")
    result = run(capsys, *words)
    assert result.code == 0
    assert "measuring: 100%" in result.err
    assert "brainstem" in result.out
    assert len(json.loads((tmp_path / "r.json").read_text())["cases"]) == 2


def test_cases_of_a_cohort_without_a_segmentation_are_named(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").mkdir()
    write_volume(Volume(mask_array(), affine()), tmp_path / "p" / "b.nii.gz")
    words = ("evaluate", "--prediction", tmp_path / "p", "--cohort", cohort, "--out", tmp_path / "r.json", "--quiet")
    assert "note: no segmentation of 1 of 2 cases, which count in no mean: a\n" in run(capsys, *words).out
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["missing"] == ["a"] and report["mean_dsc"] == 1.0
    write_volume(Volume(mask_array(), affine()), tmp_path / "p" / "a.nii.gz")
    assert "no segmentation of" not in run(capsys, *words, "--overwrite").out


def test_a_failing_case_is_left_out_and_the_others_are_kept(
    model: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(cohort.read_text())
    (tmp_path / "broken.nii.gz").write_bytes(b"nonsense")
    data["cases"][0]["images"]["mr"] = "broken.nii.gz"
    # Scribbles and masks are not needed, so they may be damaged.
    data["cases"][1] |= {"scribbles": "broken.nii.gz", "mask": "broken.nii.gz"}
    cohort.write_text(json.dumps(data))
    out = tmp_path / "o"
    words = ("segment", "--model", model, "--cohort", cohort, "--out", out, "--quiet")
    result = run(capsys, *words, "--uncertainty")
    assert result.code == 1
    assert "The case 'a' is left out" in result.err
    assert "1 of 2 cases are segmented; not a." in result.out
    assert content(out) == {"b.seg.nrrd", "b_extras", "b_extras/uncertainty.nii.gz"}
    (out / "notes.txt").write_text("mine")
    assert "--overwrite to replace the files of its cases." in run(capsys, *words).error
    assert run(capsys, *words, "--overwrite").code == 1
    assert content(out) == {"b.seg.nrrd", "notes.txt"}


def test_a_cohort_without_the_modalities_is_refused_before_work(
    model: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(cohort.read_text())
    data["modalities"] = ["ct"]
    for case in data["cases"]:
        del case["images"]["mr"]
    cohort.write_text(json.dumps(data))
    words = ("segment", "--model", model, "--cohort", cohort, "--out", tmp_path / "o")
    assert "Add mr" in run(capsys, *words).error
    assert not (tmp_path / "o").exists()


def test_cases_whose_results_some_systems_would_mix_up_are_refused_before_work(
    model: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(cohort.read_text())
    data["cases"][1]["name"] = "A"
    cohort.write_text(json.dumps(data))
    words = ("segment", "--model", model, "--cohort", cohort, "--out", tmp_path / "o")
    assert "'a' and 'A' would have the same name" in run(capsys, *words).error
    assert not (tmp_path / "o").exists()


def test_segment_never_takes_its_inputs_away(
    model: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(tmp_path)
    cases = tmp_path / "Fälle 1"
    for out in (tmp_path, cases):
        words = ("segment", "--model", model, "--cohort", cohort, "--out", out, "--overwrite")
        assert "would take away the input" in run(capsys, *words).error
    words = ("segment", "--model", model, "--ct", cases / "ct.nii.gz", "--mr", cases / "mr.nii.gz", "--overwrite")
    assert "would take away the input" in run(capsys, *words, "--out", cases).error
    assert "would take away the input" in run(capsys, *words, "--out", model).error
    assert content(tmp_path) == before
    assert (model / "model.json").is_file()


def test_segment_a_tilted_gantry(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheared = affine()
    sheared[1, 2] = 1.5
    for seed, name in enumerate(("ct", "mr")):
        write_volume(Volume(image_array(seed), sheared), tmp_path / f"{name}.nrrd")
    words = ("--ct", tmp_path / "ct.nrrd", "--mr", tmp_path / "mr.nrrd", "--out", tmp_path / "o", "--uncertainty")
    result = run(capsys, "segment", "--model", model, *words, "--quiet")
    assert result.code == 0
    assert "tilted gantry" in result.out
    assert content(tmp_path / "o") == {"segmentation.nrrd", "segmentation.seg.nrrd", "uncertainty.nrrd"}
    assert np.allclose(read_volume(tmp_path / "o" / "segmentation.nrrd").affine, sheared)


def test_evaluate_pairs_segments_by_name_and_puts_boxes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    swapped = np.choose(mask_array(), [0, 2, 1]).astype(np.uint8)
    moved = affine()
    moved[:3, 3] += moved[:3, :3] @ (4, 4, 1)
    box = Volume(swapped[1:7, 4:21, 4:20], moved)
    write_segmentation(box, LabelTable.from_names(["Brainstem", "gtv"]), tmp_path / "box.seg.nrrd")
    report = tmp_path / "r.json"
    for prediction, mask in (
        (paths["mask_seg"], tmp_path / "box.seg.nrrd"),
        (tmp_path / "box.seg.nrrd", paths["mask_seg"]),
    ):
        words = ("--prediction", prediction, "--mask", mask, "--out", report, "--quiet", "--overwrite")
        assert run(capsys, "evaluate", *words).code == 0
        assert [label["dsc"] for label in json.loads(report.read_text())["labels"]] == [1.0, 1.0]
    words = ("--prediction", paths["mask"], "--mask", paths["mask_seg"], "--out", paths["mask"], "--overwrite")
    before = paths["mask"].read_bytes()
    assert "would take away the input" in run(capsys, "evaluate", *words).error
    assert paths["mask"].read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ct", "{ct}"), "Add mr or choose another model"),
        (("--image", "{ct}"), "Add ct, mr"),
        ((), "An image is needed"),
        (("--ct", "{ct}", "--cohort", "c.json"), "either a --cohort or images"),
        (("--cohort", "c.json"), "c.json"),
        (("--ct", "{ct}", "--mr", "{mr}", "--branch", "mr"), "no branch for each modality"),
        (("--ct", "{ct}", "--mr", "{shifted}"), "--resample"),
    ],
)
def test_segment_says_what_does_not_fit(
    words: tuple[str, ...], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    paths["shifted"] = tmp_path / "shifted.nii.gz"
    write_volume(Volume(image_array(2), affine((0.0, 0.0, 0.0))), paths["shifted"])
    before = content(tmp_path)
    filled = [word.format(**paths) for word in words]
    result = run(capsys, "segment", "--model", model, "--out", tmp_path / "o", "--quiet", *filled)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err
    assert content(tmp_path) == before


@pytest.mark.parametrize(("shipped", "needs"), [("abdomen-mr", "reference image"), ("scribble-prior", "scribbles")])
def test_a_model_that_needs_scribbles_neither_segments_nor_becomes_a_bundle(
    shipped: str, needs: str, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(tmp_path)
    image = tmp_path / "Fälle 1" / "mr.nii.gz"
    words = ("segment", "--model", shipped, "--out", tmp_path / "o", "--quiet")
    assert needs in run(capsys, *words, "--image", image).error
    assert needs in run(capsys, *words, "--cohort", cohort).error
    assert needs in run(capsys, "model", "export", "--model", shipped, "--out", tmp_path / "bundle").error
    assert content(tmp_path) == before


@pytest.mark.parametrize("spoil", ["missing", "foreign", "corrupt", "empty"])
def test_unusable_models_are_refused(
    spoil: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    folder = tmp_path / "m"
    if spoil != "missing":
        shutil.copytree(model, folder)
    if spoil == "foreign":
        (folder / "model.json").write_text('{"format": "other"}')
    if spoil == "corrupt":
        (folder / "model.safetensors").write_bytes(b"\x80\x04\x95pickle")
    if spoil == "empty":
        (folder / "model.json").unlink()
    before = content(tmp_path)
    error = run(capsys, "segment", "--model", folder, "--ct", paths["ct"], "--out", tmp_path / "o").error
    assert str(folder) in error or "model.json" in error
    assert content(tmp_path) == before


def test_evaluate_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    prediction = mask_array()
    prediction[prediction == 2] = 0
    write_volume(Volume(prediction, affine()), tmp_path / "p.nii.gz")
    report = tmp_path / "r ö.json"
    words = ("--prediction", tmp_path / "p.nii.gz", "--mask", paths["mask_seg"], "--out", report, "--quiet")
    result = run(capsys, "evaluate", *words)
    assert result.code == 0
    labels = {each["name"]: each for each in json.loads(report.read_text(encoding="utf-8"))["labels"]}
    assert labels["GTV"]["dsc"] == 1.0
    assert labels["brainstem"]["status"] == "prediction_empty"
    assert "missed" in result.out


@pytest.mark.parametrize("kind", ["file", "folder", "cohort"])
def test_evaluate_takes_names_and_tolerances(
    kind: str, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("p", "m"):
        write_volume(Volume(mask_array(), affine()), tmp_path / folder / "a.nii.gz")
    given = {
        "file": (tmp_path / "p" / "a.nii.gz", "--mask", tmp_path / "m" / "a.nii.gz"),
        "folder": (tmp_path / "p", "--mask", tmp_path / "m"),
        "cohort": (tmp_path / "p", "--cohort", cohort),
    }[kind]
    words = ("--labels", "one", "two", "--tolerances", "3.5", "--out", tmp_path / "r.json", "--quiet")
    assert run(capsys, "evaluate", "--prediction", *given, *words).code == 0
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    case = report if kind == "file" else report["cases"][0]
    assert case["tolerances_mm"] == [3.5]
    assert [label["name"] for label in case["labels"]] == ["one", "two"]
    assert [label["nsd@3.5mm"] for label in case["labels"]] == [1.0, 1.0]


def test_evaluate_takes_a_folder_of_segment_as_it_is(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, out = write_case(tmp_path), tmp_path / "o"
    words = ("segment", "--model", model, "--ct", paths["ct"], "--mr", paths["mr"], "--out", out, "--quiet")
    assert run(capsys, *words, "--probabilities", "--uncertainty").code == 0
    (tmp_path / "masks").mkdir()
    shutil.copy(paths["mask"], tmp_path / "masks" / "segmentation.nii.gz")
    words = ("--prediction", out, "--mask", tmp_path / "masks", "--quiet")
    shown = run(capsys, "evaluate", *words[:-1])
    assert shown.code == 0
    assert "measuring: 100%" in shown.err
    twin = out / "segmentation.nii.gz"
    assert "would take away the input" in run(capsys, "evaluate", *words, "--out", twin, "--overwrite").error
    write_volume(Volume(mask_array(), affine()), twin)
    assert "segmentation.nii.gz and segmentation.seg.nrrd. Keep one" in run(capsys, "evaluate", *words).error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prediction", "{mask}"), "given once"),
        (("--prediction", "{mask}", "--mask", "none.nii.gz"), "There is no file or folder 'none.nii.gz'"),
        (("--prediction", "{mask}", "--mask", "{folder}"), "both be files or both be folders"),
        (("--prediction", "{mask}", "--mask", "{mask}", "--labels", "GTV"), "mask.nii.gz"),
        (("--prediction", "{mask}", "--mask", "{mask}", "--labels", "Background", "GTV"), "leave it out"),
        (("--prediction", "{ct}", "--mask", "{mask}"), "whole numbers"),
        (("--prediction", "{mask}", "--mask", "{mask}", "--tolerances", "-1"), "tolerances"),
        (("--prediction", "{mask}", "--mask", "{mask}", "--out", "{mask}"), "--overwrite"),
    ],
)
def test_evaluate_says_what_is_wrong(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path) | {"folder": tmp_path}
    before = content(tmp_path)
    assert message in run(capsys, "evaluate", *[word.format(**paths) for word in words]).error
    assert content(tmp_path) == before


def test_model_import_list_info_export(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "installed"))
    archive = shutil.make_archive(str(tmp_path / "zip"), "zip", model)
    result = run(capsys, "model", "import", "--model", archive, "--name", "liver-1")
    assert result.code == 0 and "use it: crossmodalseg segment --model liver-1" in result.out
    shipped = shipped_models_folder() / "abdomen-mr"
    result = run(capsys, "model", "import", "--model", shipped, "--name", "organs")
    assert result.code == 0 and "use it: crossmodalseg refer --model organs" in result.out
    assert "liver-1" in run(capsys, "model", "list").out
    info = run(capsys, "model", "info", "--model", "liver-1")
    assert info.code == 0
    assert "1 GTV, 2 brainstem" in info.out
    assert "CC0" in info.out
    assert json.loads(run(capsys, "model", "info", "--model", model, "--json").out)["name"] == "tiny"
    assert "exists" in run(capsys, "model", "import", "--model", archive, "--name", "liver-1").error
    assert run(capsys, "model", "export", "--model", "liver-1", "--out", tmp_path / "bundle").code == 0
    assert (tmp_path / "bundle" / "configs" / "inference.json").is_file()
    assert "--overwrite" in run(capsys, "model", "export", "--model", "liver-1", "--out", tmp_path / "bundle").error
    installed = tmp_path / "installed" / "liver-1"
    words = ("model", "export", "--model", "liver-1", "--out", installed, "--overwrite")
    assert "would take away the input" in run(capsys, *words).error
    words = ("model", "import", "--model", installed, "--name", "liver-1", "--overwrite")
    assert "would take away the input" in run(capsys, *words).error
    assert (installed / "model.json").is_file()
    assert "liver-2" in run(capsys, "model", "info", "--model", "liver-2").error


def test_doctor_reports_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "installed"))
    result = run(capsys, "doctor", "--out", tmp_path / "d.json")
    assert result.code in (0, 1)
    for heading in ("versions", "machine", "devices", "places", "models", "problems"):
        assert f"{heading}\n" in result.out
    names = {finding["name"] for finding in json.loads((tmp_path / "d.json").read_text())["findings"]}
    assert {"torch", "free memory", "cpu", "working folder"} <= names


def test_doctor_finds_a_broken_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path))
    shutil.copytree(model, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nonsense")
    result = run(capsys, "doctor")
    assert result.code == 1
    assert "broken: " in result.out.split("problems")[1]


def config_for(*words: object) -> object:
    from CrossModalSegLib.cli.commands import COMMANDS
    from CrossModalSegLib.cli.main import parse

    command = next(each for each in COMMANDS if each.name == "train cmfnet")
    return train_cmfnet.training_config(parse(command, ["--cohort", "c.json", "--out", "m", *map(str, words)]))


def test_train_takes_the_preset_where_nothing_is_said() -> None:
    for name, preset in PRESETS.items():
        assert config_for("--preset", name) == preset


@pytest.mark.parametrize("method", ["cmfnet", "pce", "full", "em", "tv", "ms", "ustm", "s2l", "dmsps"])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_method_goes_with_every_preset(method: str, preset: str) -> None:
    assert config_for("--method", method, "--preset", preset).method == method


def test_partial_cross_entropy_is_alone_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    config = config_for("--method", "pce")
    assert config.dice_weight == 0.0 and config.second_stage is None
    settings = tmp_path / "s.json"
    settings.write_text('{"method": "pce", "dice_weight": 0.5, "second_stage": {"share": 0.4}}')
    config = config_for("--config", settings)
    assert (config.method, config.dice_weight, config.second_stage.share) == ("pce", 0.5, 0.4)
    assert config_for("--method", "em", "--preset", "paper").optimizer == "sgd"


def test_train_options_come_before_the_file_and_it_before_the_preset(tmp_path: Path) -> None:
    settings = tmp_path / "s.json"
    settings.write_text(
        '{"epochs": 3, "batch_size": 5, "hybrid": {"imc": false}, "preprocessing": {"percentiles": [1, 99]}}'
    )
    config = config_for("--preset", "fast", "--config", settings, "--batch-size", 7, "--spacing", 3, 1, 1)
    assert (config.epochs, config.steps, config.batch_size) == (3, None, 7)
    assert config.hybrid.imc is False
    assert config.hybrid.unit == PRESETS["fast"].hybrid.unit
    assert config.preprocessing.spacing == (3, 1, 1)
    assert config.preprocessing.percentiles == (1, 99)


@pytest.mark.parametrize("method", ["cmfnet", "pce", "dmsps"])
def test_naming_the_network_that_is_taken_anyway_changes_nothing(method: str) -> None:
    config = config_for("--method", method, "--preset", "fast")
    named = config_for("--method", method, "--preset", "fast", "--network", config.network_name)
    assert named.network_options == config.network_options == {"base_channels": 8, "dropout": 0.1}


def test_options_of_a_preset_stay_with_its_own_network(tmp_path: Path) -> None:
    settings = tmp_path / "s.json"
    settings.write_text('{"network": "dynunet"}')
    assert config_for("--method", "pce", "--preset", "fast", "--config", settings).network_options == {}
    settings.write_text('{"network_options": {"residual_units": 3}}')
    config = config_for("--method", "pce", "--network", "resunet", "--config", settings)
    assert config.network_options == {"residual_units": 3}
    settings.write_text('{"network_options": {"depth": 5}}')
    config = config_for("--method", "pce", "--network", "vnet", "--config", settings)
    assert config.network_options == {"dropout": 0.1, "depth": 5}


def test_train_names_a_wrong_setting(tmp_path: Path) -> None:
    settings = tmp_path / "s.json"
    settings.write_text('{"learning_rat": 1}')
    with pytest.raises(InputError, match="learning_rat"):
        config_for("--config", settings)
    with pytest.raises(InputError, match="given once"):
        config_for("--epochs", 1, "--steps", 1)


def test_train_makes_a_model_that_segments(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "s.json"
    settings.write_text('{"network_options": {"base_channels": 2}, "augmentation": "none", "warm_up_steps": 0}')
    out = tmp_path / "m ö"
    words = ("train", "cmfnet", "--cohort", cohort, "--out", out, "--preset", "fast", "--method", "pce", "--quiet")
    options = ("--steps", 2, "--patch-size", 16, 16, 16, "--batch-size", 1, "--config", settings, "--device", "cpu")
    result = run(capsys, *words, *options)
    assert result.code == 0
    assert str(out) in result.out
    paths = {name: cohort.parent / "Fälle 1" / f"{name}.nii.gz" for name in ("ct", "mr")}
    segment = ("segment", "--model", out, "--ct", paths["ct"], "--mr", paths["mr"], "--out", tmp_path / "o", "--quiet")
    assert run(capsys, *segment).code == 0
    assert "exists and is not empty" in run(capsys, *words, *options).error


def test_train_refuses_a_missing_cohort(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = run(capsys, "train", "cmfnet", "--cohort", tmp_path / "c.json", "--out", tmp_path / "m").error
    assert "c.json" in error
    assert content(tmp_path) == set()
