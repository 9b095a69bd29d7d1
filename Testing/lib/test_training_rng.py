from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from CrossModalSegLib.training.checkpoint import load_checkpoint, save_checkpoint
from CrossModalSegLib.training.rng import isolated_rng, restore_rng_state, rng_state, seed_everything


def draw():
    return random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))


def test_all_generators_come_back_through_a_checkpoint(tmp_path):
    with isolated_rng():
        seed_everything(3)
        draw()
        state = rng_state()
        expected = [draw(), draw()]
        restore_rng_state(load_checkpoint(save_checkpoint(tmp_path, 0, state)))
        assert [draw(), draw()] == expected


def test_the_callers_generators_are_left_alone():
    with isolated_rng():
        seed_everything(1)
        expected = draw()
        seed_everything(1)
        with isolated_rng():
            seed_everything(2)
            draw()
        assert draw() == expected


def test_cuda_is_not_woken_up_to_be_asked(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: pytest.fail("CUDA was initialised"))
    with isolated_rng():
        torch.manual_seed(5)
        monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
        assert "cuda" not in rng_state()
        with isolated_rng():
            torch.random.default_generator.manual_seed(6)
    assert seeds[0] == 5


def test_the_generator_of_mps_is_kept_where_there_is_one(monkeypatch):
    present = [torch.tensor([1], dtype=torch.uint8)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: present[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: present.__setitem__(0, state))
    with isolated_rng():
        present[0] = torch.tensor([2], dtype=torch.uint8)
    assert present[0].item() == 1
