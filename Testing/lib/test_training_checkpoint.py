from __future__ import annotations

import json
import math

import pytest
import torch

from CrossModalSegLib.errors import ModelError, OutputError
from CrossModalSegLib.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint


def test_every_kind_of_value_comes_back(tmp_path):
    weights = torch.randn(3, 4)
    state = {
        "tensors": [weights, weights[:, 1], torch.tensor(2.5), torch.zeros(2, dtype=torch.uint8)],
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "betas": (0.9, 0.999)},
        "big": 2**127 + 1,
        "text": "ü",
        "none": None,
        "true": True,
        "float": 0.1 + 0.2,
        "infinite": -math.inf,
        "__odd": 1,
        "like a tensor": {"__tensor__": "no name of one"},
    }
    loaded = load_checkpoint(save_checkpoint(tmp_path, 7, state))
    for old, new in zip(state.pop("tensors"), loaded.pop("tensors")):
        assert torch.equal(old, new) and old.dtype == new.dtype
    assert torch.equal(loaded["optimizer"]["state"].pop(0)["step"], torch.tensor(3.0))
    state["optimizer"]["state"].pop(0)
    assert loaded == state


def test_tensors_that_share_memory_are_stored_twice(tmp_path):
    shared = torch.randn(5)
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, {"a": shared, "b": shared.view(5)}))
    assert torch.equal(loaded["a"], shared) and torch.equal(loaded["b"], shared)


def test_only_the_newest_is_kept(tmp_path):
    for step in (9, 10):
        save_checkpoint(tmp_path, step, {"step": step})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000010"


def test_of_an_earlier_training_none_is_left(tmp_path):
    save_checkpoint(tmp_path, 10, {"step": 10})
    save_checkpoint(tmp_path, 5, {"step": 5})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_where_several_are_left_the_one_with_most_steps_is_the_newest(tmp_path):
    for name in ("step-00000009", "step-00000010", "step-100000000", "step-99999999", "step-5", "other"):
        (tmp_path / name).mkdir()
    assert latest_checkpoint(tmp_path).name == "step-100000000"


def test_nothing_is_pickled(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"a": torch.zeros(1), "b": 2})
    assert {each.name for each in path.iterdir()} == {"state.json", "state.safetensors"}
    assert json.loads((path / "state.json").read_text())["state"]["b"] == 2


def test_a_failed_one_leaves_the_former(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"step": 1})

    def full_disk(_tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("CrossModalSegLib.training.checkpoint.save_file", full_disk)
    with pytest.raises(OutputError, match="No space is left"):
        save_checkpoint(tmp_path, 2, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_checkpoint(latest_checkpoint(tmp_path)) == {"step": 1}


def test_remains_of_a_killed_write_are_ignored_and_then_removed(tmp_path):
    save_checkpoint(tmp_path, 1, {"step": 1})
    (tmp_path / ".partial-0123-step-00000002").mkdir()
    assert latest_checkpoint(tmp_path).name == "step-00000001"
    save_checkpoint(tmp_path, 3, {"step": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_without_a_folder_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing", "not json"])
def test_damage_is_named(tmp_path, damage):
    path = save_checkpoint(tmp_path, 1, {"a": torch.arange(100.0)})
    if damage == "truncated":
        content = (path / "state.safetensors").read_bytes()
        (path / "state.safetensors").write_bytes(content[:-50])
    elif damage == "foreign":
        (path / "state.json").write_text('{"format": "something-else", "state": {}}')
    elif damage == "missing":
        (path / "state.safetensors").unlink()
    else:
        (path / "state.json").write_text("[1, 2")
    with pytest.raises(ModelError, match=r"cannot be read .* delete its folder"):
        load_checkpoint(path)


def test_what_a_checkpoint_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match="/a/b"):
        save_checkpoint(tmp_path, 1, {"a": {"b": object()}})
    assert latest_checkpoint(tmp_path) is None
