from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from referring_setup import tiny_referring_config
from safetensors.torch import load_file, save_file
from training_cohort import make_cohort

from CrossModalSegLib.cohort import Cohort, read_cohort
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.errors import Cancelled, CohortError, InputError, LabelError, ModelError, OutputError
from CrossModalSegLib.inference.model_card import LEAST_PRESENCE
from CrossModalSegLib.inference.model_folder import load_model
from CrossModalSegLib.io import read_volume, write_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.crossmr import CrossMR
from CrossModalSegLib.models.focalnet import FocalNet
from CrossModalSegLib.models.unet2d import UNet2d
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.training.referring import trainer
from CrossModalSegLib.training.referring.config import ABLATIONS
from CrossModalSegLib.training.referring.trainer import Start, make_network, train_referring

HERE = Path(__file__).resolve().parent

KILLED = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from referring_setup import tiny_referring_config
from CrossModalSegLib.cohort import read_cohort
from CrossModalSegLib.training.referring.trainer import train_referring

def progress(done, total, message="", values=None):
    print(message, done, flush=True)

folder = Path(sys.argv[1])
config = tiny_referring_config(steps=200, checkpoint_minutes=0.0, validations=100, dense_guidance=True)
train_referring([read_cohort(folder / "cohort.json")], folder / "parts", config, accelerator="cpu", progress=progress)
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(autouse=True)
def _without_curve(request, monkeypatch):
    """Drawing takes longer than these trainings; one test keeps it."""
    if "curve" not in request.node.name:
        monkeypatch.setattr("CrossModalSegLib.report.curve.write_curve", lambda *_: None)


def cpu(cohort, out, config=None, **options):
    return train_referring([cohort], out, config or tiny_referring_config(), accelerator="cpu", **options)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_training_ends_with_a_model_folder_and_a_curve(cohort, tmp_path):
    events = []
    config = tiny_referring_config(dense_guidance=True, validations=2)
    out = cpu(cohort, tmp_path / "modèle 1", config, start=Start(licence="CC0"), progress=lambda *e: events.append(e))
    assert {each.name for each in out.iterdir()} == {
        "model.safetensors", "model.json", "history.json", "training.json", "curve.png",
    }  # fmt: skip
    assert [each.name for each in tmp_path.iterdir()] == ["modèle 1"]
    model = load_model(out)
    card = model.card
    assert isinstance(model.network, CrossMR) and model.network.config == config.network
    assert card.slices == SlicePreprocessing(32) and card.modalities == ("image",) and card.licence == "CC0"
    assert card.provenance["modalities"] == ["ct", "mr"] and card.provenance["steps"] == 4
    assert len(card.provenance["cases"]["validation"]) == 1 and "torch" in card.versions
    assert card.metrics["validated_on"] == "pairs" and card.metrics["loss"] > 0
    history = json.loads((out / "history.json").read_text())
    assert {"total", "bce", "dice", "select", "presence", "classes", "resemblance"} <= history["steps"][-1].keys()
    assert [entry["step"] for entry in history["validation"]] == [2, 4]
    assert [event[:2] for event in events if event[2] == "Training"] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_weights_of_the_lowest_validation_loss_are_exported(cohort, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0])
    kept = []

    def judged(step, *_):
        kept.append({name: each.clone() for name, each in step.network.state_dict().items()})
        return {"loss": next(losses), "dice": 0.5, "dice_by_class": {}}

    monkeypatch.setattr("CrossModalSegLib.training.referring.run.validate_pairs", judged)
    out = cpu(cohort, tmp_path / "m", tiny_referring_config(validations=4))
    assert same(weights(out), kept[1]) and not same(weights(out), kept[3])
    assert load_model(out).card.metrics["loss"] == 1.0 and load_model(out).card.metrics["step"] == 2


def test_held_out_pairs_decide_from_which_probability_on_an_organ_is_there(cohort, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "CrossModalSegLib.training.referring.presence.least_presence", lambda *found: seen.append(found) or 0.7
    )
    config = tiny_referring_config(steps=1, validations=1)
    assert load_model(cpu(cohort, tmp_path / "m", config)).card.least_presence == 0.7
    [(probabilities, there)] = seen
    # Each pair asks for one organ or more.
    assert probabilities.shape == there.shape and len(there) >= config.validation_pairs
    assert there.any() and ((probabilities > 0) & (probabilities < 1)).all()
    unet = ABLATIONS["unet"](replace(config, reference_modalities=("mr",)))
    assert load_model(cpu(cohort, tmp_path / "unet", unet)).card.least_presence == LEAST_PRESENCE
    assert len(seen) == 1


def test_a_share_that_holds_no_case_out_is_told(cohort, tmp_path, caplog):
    cpu(cohort, tmp_path / "m", tiny_referring_config(steps=1, validation_share=0.1))
    assert "validation_share 0.1 comes to none" in caplog.text


def test_without_held_out_cases_the_last_averaged_weights_are_exported(cohort, tmp_path):
    out = cpu(cohort, tmp_path / "m", tiny_referring_config(validation_share=0.0))
    assert load_model(out).card.metrics == {"validated_on": "none"}


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(cohort, tmp_path):
    first = cpu(cohort, tmp_path / "a", tiny_referring_config(steps=2))
    second = cpu(cohort, tmp_path / "b", tiny_referring_config(steps=2, num_workers=2))
    other = cpu(cohort, tmp_path / "c", tiny_referring_config(steps=2, seed=1))
    assert same(weights(first), weights(second)) and not same(weights(first), weights(other))


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name not in ("unet", "encoder-fixed", "from-scratch")])
def test_ablations_train(cohort, tmp_path, name):
    config = ABLATIONS[name](tiny_referring_config(steps=1, validation_share=0.0))
    assert load_model(cpu(cohort, tmp_path / "m", config)).network.config == config.network


def test_a_fixed_encoder_stays_and_one_at_a_tenth_moves_less(cohort, tmp_path):
    def moved(name: str, **changes: object) -> float:
        settings = {"steps": 1, "validation_share": 0.0, "ema_decay": None, "weight_decay": 0.0, **changes}
        after = weights(cpu(cohort, tmp_path / name, tiny_referring_config(**settings)))
        return max((after[key] - before[key]).abs().max().item() for key in before if key.startswith("encoder."))

    torch.manual_seed(0)
    before = CrossMR(tiny_referring_config().network).state_dict()
    assert moved("fixed", encoder_rate=0.0) == 0.0
    assert moved("tenth", encoder_rate=0.1) == pytest.approx(1e-4, rel=0.02)  # Adam's first step has the rate's size
    assert moved("whole", encoder_rate=1.0) == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize("levels", [1, 2])
def test_focal_levels_that_a_file_lacks_are_told(tmp_path, caplog, levels):
    config = tiny_referring_config()
    file = tmp_path / "a.safetensors"
    save_file(FocalNet(config.network.encoder).state_dict(), file)  # of one level
    encoder = replace(config.network.encoder, focal_levels=(levels,) * 4)
    wanted = replace(config, network=replace(config.network, encoder=encoder))
    make_network(wanted, Start(encoder_weights=file), 3)
    assert ("4 of its convolutions begin with random weights" in caplog.text) == (levels > 1)


def test_an_encoder_of_random_weights_that_learns_less_is_told(cohort, tmp_path, caplog):
    told = {
        "fixed": "The encoder is kept as it is, but its weights are random",
        "tenth": "The encoder learns at 0.1 of the rate, but its weights are random",
    }
    for name, rate, method in (
        ("fixed", 0.0, "crossmr"),
        ("tenth", 0.1, "crossmr"),
        ("learning", 1.0, "crossmr"),
        ("unet", 0.0, "unet"),
    ):
        caplog.clear()
        config = tiny_referring_config(steps=1, encoder_rate=rate, method=method, modalities=("mr",))
        train_referring([cohort], tmp_path / name, config, accelerator="cpu")
        assert told.get(name, "") in caplog.text and ("weights are random" in caplog.text) == (name in told)
    caplog.clear()
    config = tiny_referring_config(steps=1, encoder_rate=0.0)
    train_referring([cohort], tmp_path / "b", config, start=Start(str(tmp_path / "learning")), accelerator="cpu")
    assert "random" not in caplog.text


def test_the_unet_learns_one_modality(cohort, tmp_path):
    config = ABLATIONS["unet"](tiny_referring_config(reference_modalities=("mr",), steps=2))
    model = load_model(cpu(cohort, tmp_path / "m", config))
    assert isinstance(model.network, UNet2d) and model.card.modalities == ("mr",)
    assert model.card.slices == SlicePreprocessing(32) and model.card.metrics["loss"] > 0
    with pytest.raises(InputError, match="one reference modality alone; got ct, mr"):
        cpu(cohort, tmp_path / "n", replace(config, reference_modalities=None))


def test_a_model_to_start_from_that_is_missing_is_told_before_cases_are_loaded(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "load_stacks", lambda *_args, **_options: pytest.fail("this may take long"))
    with pytest.raises(ModelError, match="no model folder 'missing'"):
        cpu(cohort, tmp_path / "a", start=Start(model="missing"))


def test_a_training_starts_from_a_model(cohort, tmp_path):
    first = cpu(cohort, tmp_path / "a", tiny_referring_config(steps=1))
    config = tiny_referring_config(steps=1, learning_rate=1e-12, ema_decay=None, weight_decay=0.0)
    second = cpu(cohort, tmp_path / "b", config, start=Start(model=str(first)))
    for name, tensor in weights(first).items():
        torch.testing.assert_close(tensor, weights(second)[name], atol=1e-6, rtol=0)
    other = replace(config, network=replace(config.network, queries=4))
    with pytest.raises(ModelError, match="another network than this training"):
        cpu(cohort, tmp_path / "c", other, start=Start(model=str(first)))


def test_by_the_clock_the_training_ends_in_time_and_says_seconds(cohort, tmp_path):
    events = []
    config = tiny_referring_config(steps=None, minutes=0.05, validation_share=0.0)
    out = cpu(cohort, tmp_path / "m", config, progress=lambda *event: events.append(event))
    steps = [event for event in events if event[2] == "Training"]
    assert steps[-1][:2] == (3, 3) and len(steps) >= 1
    history = json.loads((out / "history.json").read_text())["steps"]
    assert 3.0 <= history[-1]["seconds"] < 20 and history[-1]["learning_rate"] < 1e-3


def test_a_stopped_training_goes_on_exactly(cohort, tmp_path):
    config = tiny_referring_config(steps=4, dense_guidance=True)
    whole = cpu(cohort, tmp_path / "whole", config)
    cancel = CancelToken()

    def stop(done, _total, message="", _values=None):
        if message == "Training" and done == 2:
            cancel.cancel()

    with pytest.raises(Cancelled):
        cpu(cohort, tmp_path / "parts", config, progress=stop, cancel=cancel)
    with pytest.raises(OutputError, match="holds a training that was stopped"):
        cpu(cohort, tmp_path / "parts", config)
    with pytest.raises(InputError, match=r"config\.points was 64 and is now 65"):
        cpu(cohort, tmp_path / "parts", replace(config, points=65), resume=True)
    parts = cpu(cohort, tmp_path / "parts", config, resume=True)
    assert same(weights(whole), weights(parts))
    first, second = (json.loads((out / "history.json").read_text()) for out in (whole, parts))
    assert first["validation"] == second["validation"]


@pytest.mark.parametrize("what", ["mask", "image"])
def test_a_training_is_not_resumed_with_other_data_of_the_same_names(tmp_path, what):
    cohort = make_cohort(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort, tmp_path / "out", progress=stop_at(2))
    path = cohort.cases[1].mask if what == "mask" else cohort.cases[1].images["mr"]
    former = path.read_bytes()
    volume = read_volume(path)
    volume.array[7, 20, 20] = 0
    write_volume(volume, path)
    with pytest.raises(InputError, match=r"other data: images, scribbles or masks of case1 changed since"):
        cpu(cohort, tmp_path / "out", resume=True)
    path.write_bytes(former)
    cpu(cohort, tmp_path / "out", resume=True)


def test_a_training_is_not_resumed_where_a_cohort_names_its_values_otherwise(tmp_path):
    first, second = (make_cohort(tmp_path / name) for name in ("first", "second"))
    first = replace(first, labels=LabelTable.from_names(["tumour", "liver"]))

    def train(names, **options):
        cohorts = [first, replace(second, labels=LabelTable.from_names(names))]
        train_referring(cohorts, tmp_path / "out", tiny_referring_config(), accelerator="cpu", **options)

    with pytest.raises(KeyboardInterrupt):
        train(["tumour", "liver"], progress=stop_at(2))
    with pytest.raises(InputError, match=r"masks of case\d, case\d, case\d changed"):
        train(["liver", "tumour"], resume=True)
    train(["tumour", "liver"], resume=True)


def test_a_training_goes_on_without_the_model_that_it_started_from(cohort, tmp_path):
    first = cpu(cohort, tmp_path / "first", tiny_referring_config(steps=1))
    start = Start(model=str(first))
    whole = cpu(cohort, tmp_path / "whole", start=start)
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort, tmp_path / "parts", start=start, progress=stop_at(2))
    shutil.rmtree(first)
    assert same(weights(whole), weights(cpu(cohort, tmp_path / "parts", start=start, resume=True)))


@pytest.mark.parametrize("method", ["crossmr", "unet"])
def test_a_cohort_without_a_reference_modality_is_refused_before_it_is_read(cohort, tmp_path, method):
    cases = tuple(replace(case, images={"mr": tmp_path / "none.nii.gz"}) for case in cohort.cases)
    other = replace(cohort, modalities=("mr",), cases=cases)
    config = tiny_referring_config(reference_modalities=("ct",))
    config = ABLATIONS["unet"](config) if method == "unet" else config
    with pytest.raises(CohortError, match=r"one of them has only mr\. Name modalities that each cohort has"):
        train_referring([cohort, other], tmp_path / "m", config, accelerator="cpu")


@pytest.mark.slow
def test_a_killed_and_resumed_training_gives_exactly_the_weights_of_an_uninterrupted_one(tmp_path):
    make_cohort(tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.split() == ["Training", "5"]:
                time.sleep(0.05)  # somewhere within the next step, or the writing of its checkpoint
                process.kill()
                break
    assert process.returncode == -9 and not (tmp_path / "parts").exists()

    config = tiny_referring_config(steps=200, checkpoint_minutes=0.0, validations=100, dense_guidance=True)
    states = []
    for name, resume in (("whole", False), ("parts", True)):
        with pytest.raises(KeyboardInterrupt):
            cpu(read_cohort(tmp_path / "cohort.json"), tmp_path / name, config, resume=resume, progress=stop_at(9))
        folder = tmp_path / f"{name}.training" / "checkpoints" / "step-00000009"
        states.append(load_file(folder / "state.safetensors"))
    whole, parts = states
    assert whole.keys() == parts.keys() and any("optimizer" in name for name in whole)
    assert any("around" in name for name in whole) and same(whole, parts)


def stop_at(step):
    def progress(done, _total, message="", _values=None):
        if message == "Training" and done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"modalities": ("t1",)}, CohortError, "to train on are t1; the cohorts have ct, mr"),
        ({"modalities": ("ct",), "reference_modalities": ("mr",)}, CohortError, "reference modality mr is not among"),
    ],
)
def test_modalities_that_are_not_there_are_refused(cohort, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        cpu(cohort, tmp_path / "m", tiny_referring_config(**changes))
    assert not list(tmp_path.iterdir())


def test_slices_without_any_organ_are_refused_and_nothing_is_left(cohort, tmp_path):
    config = tiny_referring_config()
    config = replace(config, pairs=replace(config.pairs, min_pixels=1000))
    with pytest.raises(LabelError, match="No slice holds 1000 pixels"):
        cpu(cohort, tmp_path / "m", config)
    assert not list(tmp_path.iterdir())


def test_held_out_cases_without_any_organ_are_named(tmp_path):
    cohort = make_cohort(tmp_path / "data")
    mask = read_volume(cohort.cases[1].mask)
    write_volume(mask.with_array(np.zeros_like(mask.array)), cohort.cases[1].mask)
    cohort = replace(cohort, cases=tuple(replace(case, fold=number) for number, case in enumerate(cohort.cases)))
    with pytest.raises(LabelError, match=r"cannot be validated on case1: no slice there holds 4 pixels"):
        cpu(cohort, tmp_path / "m", tiny_referring_config(fold=1))
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
    cpu(cohort, tmp_path / "m", tiny_referring_config(fold=0))


def test_encoder_weights_that_do_not_exist_are_refused(cohort, tmp_path):
    with pytest.raises(InputError, match="do not exist; name a .safetensors file"):
        cpu(cohort, tmp_path / "m", start=Start(encoder_weights=tmp_path / "none.safetensors"))
