from __future__ import annotations

import gc
import json
import os
import signal
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from training_cohort import make_cohort, tiny_config

from CrossModalSegLib.errors import Cancelled, CohortError, InputError, LabelError, ModelError, OutputError
from CrossModalSegLib.inference.model_folder import load_model
from CrossModalSegLib.io import read_volume, write_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.losses.hybrid import HybridConfig
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.training import loop, trainer
from CrossModalSegLib.training.checkpoint import load_checkpoint, save_checkpoint
from CrossModalSegLib.training.methods import s2l
from CrossModalSegLib.training.pseudo_labels import SecondStage
from CrossModalSegLib.training.run import TrainingRun
from CrossModalSegLib.training.trainer import train


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(autouse=True)
def without_curve(request, monkeypatch):
    """Drawing takes longer than these trainings; one test keeps it."""
    if "curve" not in request.node.name:
        monkeypatch.setattr("CrossModalSegLib.report.curve.write_curve", lambda *_: None)


def cpu(cohort, out, config, **kwargs):
    return train(cohort, out, config, accelerator="cpu", **kwargs)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_training_ends_with_a_model_folder_and_a_curve(cohort, tmp_path):
    events = []
    config = tiny_config(method="cmfnet")
    out = cpu(cohort, tmp_path / "modèle 1", config, progress=lambda *event: events.append(event))
    assert out == tmp_path / "modèle 1"
    assert {"model.safetensors", "model.json", "history.json", "training.json", "curve.png"} == {
        p.name for p in out.iterdir()
    }
    assert [p.name for p in tmp_path.iterdir()] == ["modèle 1"]
    model = load_model(out)
    assert model.card.modalities == ("ct", "mr") and model.card.architecture == "cmfnet"
    assert model.card.metrics["validated_on"] == "masks" and model.card.seed == 0
    assert len(model.card.provenance["cases"]["training"]) == 2 and "torch" in model.card.versions
    history = json.loads((out / "history.json").read_text())
    assert history["steps"][-1]["step"] == 4 and {"total", "ssl", "imr", "imc"} <= history["steps"][-1].keys()
    assert [entry["step"] for entry in history["validation"]] == [2, 4]
    assert history["steps"][-1]["learning_rate"] == pytest.approx(1e-3 * 0.25**0.9)  # of the last step, not after it
    steps = [event for event in events if event[2] == "Training"]
    assert [event[:2] for event in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert steps[-1][3]["loss"] > 0 and "dice" in steps[-1][3]


def test_the_same_seed_gives_the_same_weights_whatever_the_workers_and_the_callers_state(cohort, tmp_path):
    torch.manual_seed(1)
    first = cpu(cohort, tmp_path / "a", tiny_config(steps=2))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    second = cpu(cohort, tmp_path / "b", tiny_config(steps=2, num_workers=2))
    other = cpu(cohort, tmp_path / "c", tiny_config(steps=2, seed=1))
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name])
    assert any(not torch.equal(tensor, weights(other)[name]) for name, tensor in weights(first).items())


class StopAfter:
    """Raises at a step's report."""

    def __init__(self, step, error):
        self.step, self.error = step, error

    def __call__(self, done, _total, message="", _values=None):
        if message == "Training" and done == self.step:
            raise self.error


@pytest.mark.parametrize("method", ["cmfnet", "ustm", "s2l", "dmsps"])
def test_a_stopped_and_resumed_training_gives_the_weights_of_an_uninterrupted_one(cohort, tmp_path, method):
    second_stage = SecondStage(share=0.5, max_uncertainty=1.0) if method == "cmfnet" else None
    config = tiny_config(method=method, second_stage=second_stage)
    whole = cpu(cohort, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort, tmp_path / "parts", config, progress=StopAfter(1, KeyboardInterrupt()))
    if method == "cmfnet":
        with pytest.raises(Cancelled):
            cpu(cohort, tmp_path / "parts", config, resume=True, progress=StopAfter(3, Cancelled("enough")))
    assert not (tmp_path / "parts").exists()
    parts = cpu(cohort, tmp_path / "parts", config, resume=True)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(parts)[name]), name
    histories = [json.loads((folder / "history.json").read_text()) for folder in (whole, parts)]
    assert histories[0]["validation"] == histories[1]["validation"]
    assert [entry["total"] for entry in histories[0]["steps"]] == [entry["total"] for entry in histories[1]["steps"]]


def test_a_cancel_token_stops_after_a_complete_step(cohort, tmp_path):
    cancel = CancelToken()

    def progress(_done, _total, message="", _values=None):
        if message == "Training":
            cancel.cancel()

    with pytest.raises(Cancelled, match="resume"):
        cpu(cohort, tmp_path / "out", tiny_config(), progress=progress, cancel=cancel)
    checkpoints = tmp_path / "out.training" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000001"]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no hang-up")
def test_the_end_of_the_terminal_is_no_end_of_the_checkpoint(cohort, tmp_path, monkeypatch, request):
    # As in a terminal: nohup, under which the tests may run, ignores it.
    request.addfinalizer(partial(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL)))
    update = TrainingRun.update_weights

    def hang_up(run, batch):
        os.kill(os.getpid(), signal.SIGHUP)
        return update(run, batch)

    def progress(_done, _total, message="", _values=None):
        if message == "Training":
            raise OSError("the terminal is gone")

    monkeypatch.setattr(TrainingRun, "update_weights", hang_up)
    with pytest.raises(Cancelled, match="resume"):
        cpu(cohort, tmp_path / "out", tiny_config(), progress=progress)
    checkpoints = tmp_path / "out.training" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("target", ["keep_if_best", "set_label_maps"])
def test_an_interruption_amid_a_change_of_state_writes_no_checkpoint(cohort, tmp_path, monkeypatch, target):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, target, interrupted)
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort, tmp_path / "out", tiny_config(method="s2l"))
    assert not any(tmp_path.iterdir())


def test_predictions_of_all_cases_are_not_in_memory_at_once(cohort, tmp_path, monkeypatch):
    made, predict, blend = [], loop.predict, s2l._blend

    def watched(predicted):
        gc.collect()
        assert sum(each() is not None for each in made) <= 1
        made.append(weakref.ref(predicted))
        return predicted

    monkeypatch.setattr(loop, "predict", lambda *args, **options: watched(predict(*args, **options)))
    monkeypatch.setattr(s2l, "_blend", lambda old, new, alpha: blend(old, watched(new), alpha))
    cpu(cohort, tmp_path / "out", tiny_config(method="s2l", validation_share=0.0, scribble_share=0.0))
    assert len(made) > 2 * len(cohort.cases)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stopped_training_is_not_overwritten(cohort, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort, tmp_path / "out", tiny_config(), progress=StopAfter(1, KeyboardInterrupt()))
    with pytest.raises(OutputError, match="resume it, or delete"):
        cpu(cohort, tmp_path / "out", tiny_config())
    with pytest.raises(InputError, match=r"config.learning_rate was 0.001 and is now 0.5"):
        cpu(cohort, tmp_path / "out", tiny_config(learning_rate=0.5), resume=True)
    with pytest.raises(InputError, match=r"config.hybrid.alpha1 was"):
        cpu(cohort, tmp_path / "out", tiny_config(hybrid=HybridConfig(alpha1=0.1)), resume=True)
    cpu(cohort, tmp_path / "out", tiny_config(checkpoint_minutes=1.0, num_workers=2), resume=True)
    with pytest.raises(OutputError, match=r"exists and is not empty.*finished"):
        cpu(cohort, tmp_path / "out", tiny_config(), resume=True)


def test_a_training_is_not_resumed_with_other_scribbles(tmp_path):
    cohort = make_cohort(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort, tmp_path / "out", tiny_config(), progress=StopAfter(1, KeyboardInterrupt()))
    path = cohort.cases[1].scribbles
    former = path.read_bytes()
    scribbles = read_volume(path)
    scribbles.array[7, 20:22, 20:22] = 0
    write_volume(scribbles, path)
    with pytest.raises(InputError, match=r"other data: images, scribbles or masks of case1 changed since"):
        cpu(cohort, tmp_path / "out", tiny_config(), resume=True)
    path.write_bytes(former)
    cpu(cohort, tmp_path / "out", tiny_config(), resume=True)


def renamed(state):
    weights = state["run"]["network"]
    weights["former name"] = weights.popitem()[1]


@pytest.mark.parametrize(
    "change",
    [
        renamed,
        lambda state: state["processes"].clear(),
        lambda state: state["run"].pop("label_maps"),
        lambda state: state["processes"][0]["rng"].update(torch=torch.zeros(16, dtype=torch.uint8)),
        lambda state: state["run"]["optimizer"]["param_groups"].pop(),
    ],
)
def test_a_checkpoint_of_another_version_is_told_and_kept(cohort, tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort, tmp_path / "out", tiny_config(), progress=StopAfter(1, KeyboardInterrupt()))
    checkpoint = tmp_path / "out.training" / "checkpoints" / "step-00000001"
    state = load_checkpoint(checkpoint)
    change(state)
    save_checkpoint(checkpoint.parent, 1, state)
    with pytest.raises(ModelError, match=r"step-00000001' does not fit this version .* Resume with the version"):
        cpu(cohort, tmp_path / "out", tiny_config(), resume=True)
    assert checkpoint.is_dir()


def test_an_existing_output_is_left_alone(cohort, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        cpu(cohort, tmp_path, tiny_config())
    assert not tmp_path.with_name(f"{tmp_path.name}.training").exists()


def test_missing_annotations_are_named(tmp_path):
    unscribbled = make_cohort(tmp_path / "a", 2, scribbled=False)
    with pytest.raises(CohortError, match="learns from scribbles, but these cases have none: case0, case1"):
        cpu(unscribbled, tmp_path / "out", tiny_config())
    unmasked = make_cohort(tmp_path / "b", 2, masked=False)
    with pytest.raises(CohortError, match="method full learns from masks, but these cases have none: case0, case1"):
        cpu(unmasked, tmp_path / "out", tiny_config(method="full"))
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.training").exists()


def test_what_is_found_wrong_after_loading_leaves_nothing(cohort, tmp_path):
    larger = replace(cohort, labels=LabelTable.from_names(["tumour", "node"]))
    with pytest.raises(LabelError, match="holds scribbles of: node"):
        cpu(larger, tmp_path / "out", tiny_config())
    assert not any(tmp_path.iterdir())


def test_remains_without_a_checkpoint_are_no_obstacle(cohort, tmp_path):
    (tmp_path / "out.training" / "cache").mkdir(parents=True)
    cpu(cohort, tmp_path / "out", tiny_config(steps=1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_foreign_folder_in_the_place_of_the_working_folder_is_left_alone(cohort, tmp_path):
    foreign = tmp_path / "out.training"
    for name in ("notes.txt", "cache/thesis.txt", "checkpoints/best.pt"):
        (foreign / name).parent.mkdir(parents=True, exist_ok=True)
        (foreign / name).write_text("precious")
    for resume in (False, True):
        with pytest.raises(OutputError, match="something else is there"):
            cpu(cohort, tmp_path / "out", tiny_config(steps=1), resume=resume)
    assert sorted(path.name for path in foreign.rglob("*.*")) == ["best.pt", "notes.txt", "thesis.txt"]


def test_only_what_a_training_wrote_is_removed(cohort, tmp_path):
    (tmp_path / "out.training" / "cache").mkdir(parents=True)
    (tmp_path / "out.training" / "notes.txt").write_text("precious")
    cpu(cohort, tmp_path / "out", tiny_config(steps=1))
    assert [path.name for path in (tmp_path / "out.training").rglob("*")] == ["notes.txt"]


def test_what_is_not_there_is_named(cohort, tmp_path):
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match='"cuda" was asked for'):
            train(cohort, tmp_path / "out", tiny_config(), accelerator="cuda")
    with pytest.raises(InputError, match="fold 7"):
        cpu(cohort, tmp_path / "out", tiny_config(fold=7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": (16, 16, 20)}, "multiples of 8"),
        ({"method": "cmfnet", "patch_size": (16, 16, 24)}, "multiples of 16"),
        ({"method": "dmsps", "network": "vnet"}, 'use "dual_decoder_vnet"'),
        ({"method": "cmfnet", "network": "vnet"}, 'use "cmfnet"'),
        ({"network_options": {"num_classes": 3}}, "follows from the cohort"),
        ({"method": "cmfnet", "network_options": {"base_channels": 2}}, "too small for the network"),
    ],
)
def test_settings_that_do_not_fit_are_named_before_cases_are_prepared(cohort, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(trainer, "prepare_cases", lambda *_args, **_options: pytest.fail("this may take long"))
    with pytest.raises(InputError, match=message):
        cpu(cohort, tmp_path / "out", tiny_config(**changes))
    assert not any(tmp_path.iterdir())


def test_divergence_is_an_error_and_reaches_no_checkpoint(cohort, tmp_path):
    config = tiny_config(optimizer="sgd", learning_rate=1e30, gradient_clip=None, checkpoint_minutes=0.0, steps=8)
    with pytest.raises(ModelError, match="diverged"):
        cpu(cohort, tmp_path / "out", config)
    for path in (tmp_path / "out.training" / "checkpoints").glob("step-*"):
        history = json.loads((path / "state.json").read_text())["state"]["run"]["history"]
        assert all(isinstance(entry["total"], float) for entry in history["steps"])


def spoil_weights_in(step, monkeypatch):
    """As an infinite gradient does: the loss of that step is still finite."""
    update = TrainingRun.update_weights

    def spoiled(run, batch):
        terms = update(run, batch)
        if run.step == step:
            next(run.network.parameters()).data.fill_(torch.nan)
        return terms

    monkeypatch.setattr(TrainingRun, "update_weights", spoiled)


def test_weights_that_are_no_numbers_reach_no_checkpoint(cohort, tmp_path, monkeypatch):
    spoil_weights_in(2, monkeypatch)
    config = tiny_config(checkpoint_minutes=0.0, ema_decay=None, validation_share=0.0, scribble_share=0.0)
    with pytest.raises(ModelError, match="diverged: weights are no longer finite numbers at step 3"):
        cpu(cohort, tmp_path / "out", config)
    checkpoints = tmp_path / "out.training" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000002"]


def test_weights_that_are_no_numbers_are_not_exported(cohort, tmp_path, monkeypatch):
    spoil_weights_in(3, monkeypatch)
    with pytest.raises(ModelError, match="is not written: the training diverged"):
        cpu(cohort, tmp_path / "out", tiny_config(ema_decay=None, validation_share=0.0, scribble_share=0.0))
    assert not any(tmp_path.iterdir())


def test_a_model_that_cannot_be_written_is_written_by_resuming(cohort, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    whole = cpu(cohort, tmp_path / "whole", tiny_config())

    def full(*_args, **_kwargs):
        raise OutputError("no space is left")

    with monkeypatch.context() as patch:
        patch.setattr("CrossModalSegLib.training.export.save_model", full)
        with pytest.raises(OutputError, match="no space"):
            cpu(cohort, out, tiny_config())
    assert f"kept in '{tmp_path / 'out.training'}'; resume it" in caplog.text
    steps = []
    cpu(cohort, out, tiny_config(), resume=True, progress=lambda *event: steps.append(event[2]))
    assert "Training" not in steps
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / "out.training").exists()


def test_a_last_checkpoint_that_cannot_be_written_is_told_and_no_obstacle(cohort, tmp_path, monkeypatch, caplog):
    def full(*_args):
        raise OutputError("no space is left")

    monkeypatch.setattr("CrossModalSegLib.training.step_loop.save_checkpoint", full)
    assert load_model(cpu(cohort, tmp_path / "out", tiny_config()))
    assert "written without a last checkpoint. no space is left" in caplog.text


def test_without_validation_cases_scribbled_slices_are_held_out(cohort, tmp_path):
    config = tiny_config(validation_share=0.0, scribble_share=0.3, steps=2)
    out = cpu(cohort, tmp_path / "out", config)
    assert load_model(out).card.metrics["validated_on"] == "held-out scribbles"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scribble_share": 0.3}, None),
        ({"scribble_share": 0.1}, "validation_share 0.2 and scribble_share 0.1 comes to none"),
        ({"annotation": "masks"}, "validation_share 0.2 comes to none"),
        ({"validation_share": 0.0, "scribble_share": 0.0}, None),
    ],
)
def test_shares_that_hold_nothing_out_are_told(cohort, tmp_path, caplog, changes, told):
    cpu(cohort, tmp_path / "out", tiny_config(steps=1, **{"validation_share": 0.2, **changes}))
    assert (told in caplog.text) if told else ("held out" not in caplog.text)


def test_training_lowers_the_loss(cohort, tmp_path):
    options = {"base_channels": 4, "dropout": 0.0}
    config = tiny_config(method="pce", network_options=options, steps=30, learning_rate=3e-3, validate_every=30)
    out = cpu(cohort, tmp_path / "out", config)
    steps = json.loads((out / "history.json").read_text())["steps"]
    assert steps[-1]["total"] < 0.7 * steps[0]["total"]
