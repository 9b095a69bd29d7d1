from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.training.devices import build_fabric, check_devices, choose_accelerator, choose_precision


def test_auto_takes_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_accelerator("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_accelerator("auto") == "cuda"


def test_what_is_not_there_is_named_with_what_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r'"cuda" was asked for.*offer: cpu'):
        choose_accelerator("cuda")
    with pytest.raises(InputError, match='got "tpu"'):
        choose_accelerator("tpu")


def test_more_devices_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices("cuda", 2, 3)
    check_devices("cpu", 8, 1)
    with pytest.raises(InputError, match='4 devices of "cuda" were asked for, but there are 2'):
        check_devices("cuda", 4, 1)
    with pytest.raises(InputError, match="counted from 1"):
        check_devices("cpu", 0, 1)


def test_bf16_needs_a_device_made_for_it(monkeypatch):
    monkeypatch.setattr("CrossModalSegLib.training.devices.native_bf16", lambda _device: False)
    assert choose_precision("bf16", "cpu") == "fp32"
    monkeypatch.setattr("CrossModalSegLib.training.devices.native_bf16", lambda _device: True)
    assert choose_precision("bf16", "cpu") == "bf16" and choose_precision("fp32", "cpu") == "fp32"


def test_fabric_says_nothing_of_what_it_was_asked_for(caplog, capfd):
    build_fabric(accelerator="cpu", precision="bf16")
    assert not caplog.records and capfd.readouterr() == ("", "")
