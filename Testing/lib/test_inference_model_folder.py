from __future__ import annotations

import json
import logging
import os
import pickle
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from CrossModalSegLib.data.preprocess import Preprocessing
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.errors import ModelError, OutputError
from CrossModalSegLib.inference.bundle import export_bundle
from CrossModalSegLib.inference.model_card import LEAST_PRESENCE, ModelCard
from CrossModalSegLib.inference.model_folder import (
    check_inputs,
    find_model,
    list_models,
    load_model,
    models_folder,
    read_card,
    save_model,
)
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.factory import build_network

CONFIG = {"num_classes": 3, "modalities": 2, "base_channels": 2}


def network(**changes):
    torch.manual_seed(0)
    return build_network("cmfnet", {**CONFIG, **changes})


def card(**changes) -> ModelCard:
    content = {
        "name": "tiny",
        "architecture": "cmfnet",
        "network": CONFIG,
        "modalities": ("ct", "mr"),
        "labels": LabelTable.from_names(["liver", "spleen"]),
        "preprocessing": Preprocessing(spacing=(3.0, 1.0, 1.0)),
        "patch": (16, 32, 32),
        "provenance": {"method": "cmfnet", "cases": ["a", "b"]},
        "metrics": {"dsc": {"liver": 0.9}},
        "licence": "CC BY 4.0",
        "seed": 3,
        "versions": {"torch": "2"},
    }
    return ModelCard(**{**content, **changes})


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "modèle un", network(), card())


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_what_is_saved_is_loaded(folder):
    model = load_model(folder)
    assert replace(model.card, weights_sha256=None) == card()
    assert not model.network.training
    for name, tensor in network().state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever may read the card may load the model


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_no_space_left_for_the_weights(tmp_path):
    with limited_file_size(1000), pytest.raises(OutputError, match="weights of the model .* cannot be written"):
        save_model(tmp_path / "m", network(), card())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_no_space_left_for_a_bundle(folder, tmp_path):
    with limited_file_size(1000), pytest.raises(OutputError, match="No space is left"):
        export_bundle(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@contextmanager
def limited_file_size(limit):
    """A limit on the size of files stands in for a full disk."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_half_precision_weights_are_loaded_to_float32(tmp_path, folder, weights):
    small = save_model(tmp_path / weights, network(), card(), weights=weights)
    assert (small / "model.safetensors").stat().st_size < 0.65 * (folder / "model.safetensors").stat().st_size
    state = load_model(small).network.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in state.values() if tensor.is_floating_point())
    expected = network().state_dict()
    assert all(torch.allclose(state[name], expected[name], atol=1e-2) for name in state)


def test_an_existing_model_is_replaced_only_on_request_and_its_other_files_stay(folder):
    with pytest.raises(OutputError):
        save_model(folder, network(), card())
    (folder / "history.json").write_text("{}")
    save_model(folder, network(), card(seed=4), overwrite=True)
    assert load_model(folder).card.seed == 4
    assert (folder / "history.json").read_text() == "{}"
    assert len(list(folder.iterdir())) == 3


def test_a_model_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "models"))
    assert models_folder() == tmp_path / "models"
    save_model(tmp_path / "models" / "mine", network(), card())
    assert "mine" in list_models()
    assert find_model("mine") == tmp_path / "models" / "mine"
    assert load_model("mine").card.name == "tiny"
    with pytest.raises(ModelError, match="no installed model of that name"):
        load_model("yours")
    with pytest.raises(ModelError, match="no model folder"):
        load_model("../models/../../mine2")


def test_a_folder_of_images_with_the_name_of_a_model_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    installed = save_model(tmp_path / "models" / "liver", network(), card())
    (tmp_path / "liver").mkdir()
    assert find_model("liver") == installed
    save_model(tmp_path / "liver", network(), card(), overwrite=True)
    assert find_model("liver") == Path("liver")


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged or not a safetensors file"):
        load_model(folder)


def test_flipped_bits(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match=r"not those its model\.json was written for"):
        load_model(folder)


def test_a_pickle_named_safetensors_is_not_run(folder, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (marker.write_text, ("x",))

    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="damaged or not"):
        load_model(folder)
    assert not marker.exists()


def test_weights_of_another_network(folder, tmp_path):
    other = save_model(tmp_path / "other", network(base_channels=4), card(network={**CONFIG, "base_channels": 4}))
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="do not belong to the network"):
        load_model(folder)


def test_a_huge_network_in_a_foreign_card_is_not_allocated(folder):
    edit(folder, network={**CONFIG, "base_channels": 4096})
    with pytest.raises(ModelError, match="do not belong to the network"):
        load_model(folder)


def test_weights_with_nan(folder):
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values()))[0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    edit(folder, weights_sha256=None)
    with pytest.raises(ModelError, match="NaN"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "crossmodalseg-model-9"}, "format"),
        ({"architecture": "resnet"}, "resnet"),
        ({"network": {**CONFIG, "depth_of_everything": 1}}, "depth_of_everything"),
        ({"network": {**CONFIG, "base_channels": "two"}}, "base_channels"),
        ({"modalities": []}, "at least one modality"),
        ({"modalities": ["ct"]}, "contradicts itself"),
        ({"modalities": "ct"}, "modalities"),
        ({"labels": [{"value": 1, "name": "liver"}]}, "contradicts itself"),
        ({"labels": [{"value": 2, "name": "liver"}]}, "labels"),
        ({"preprocessing": {"spacing": [1.0, -1.0, 1.0]}}, "spacing"),
        ({"preprocessing": {"window": 3}}, "window"),
        ({"name": "../up"}, "cannot be the name"),
        ({"seed": 1.5}, "seed"),
        ({"extra": 1}, "extra"),
        ({"patch": [16, 32]}, "patch"),
    ],
)
def test_a_wrong_card(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"format": NaN}', "\x00\x01"])
def test_a_card_that_is_not_one(folder, text):
    (folder / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError):
        read_card(folder)


def test_missing_files(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        load_model(folder)
    with pytest.raises(ModelError, match="not a model folder"):
        load_model(tmp_path)


def test_inputs_are_checked_by_name(caplog):
    volume = SimpleNamespace(array=np.zeros((2, 2, 2)))
    check_inputs(card(), SimpleNamespace(name="a", images={"ct": volume, "mr": volume}))
    with pytest.raises(ModelError, match="needs the images ct, mr; given: ct. Add mr"):
        check_inputs(card(), SimpleNamespace(name="a", images={"ct": volume}))
    with caplog.at_level(logging.WARNING):
        check_inputs(card(), SimpleNamespace(name="a", images={"ct": volume, "mr": volume, "pet": volume}))
    assert "does not use the images pet" in caplog.text


def test_a_referring_model_says_from_which_probability_on_an_organ_is_there(tmp_path):
    folder = save_model(tmp_path / "2d", network(), card(least_presence=0.93))
    assert load_model(folder).card.least_presence == 0.93
    edit(folder, least_presence=1.2)
    with pytest.raises(ModelError, match=r"least presence is a probability within 0 and 1; got 1\.2\."):
        load_model(folder)


def test_a_2d_model_says_how_volumes_become_slices(tmp_path):
    slices = SlicePreprocessing(image_size=96, resize="stretch", percentiles=(1.0, 99.0))
    folder = save_model(tmp_path / "2d", network(), card(slices=slices))
    assert load_model(folder).card.slices == slices
    edit(folder, slices={"image_size": 8})
    with pytest.raises(ModelError, match=r"see slices: The image size is at least 32 pixels; got 8\."):
        load_model(folder)


def test_cards_of_before_2d_models_are_read(folder):
    path = folder / "model.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["slices"], content["least_presence"]
    path.write_text(json.dumps(content), encoding="utf-8")
    read = load_model(folder).card
    assert (read.slices, read.least_presence) == (None, LEAST_PRESENCE)
