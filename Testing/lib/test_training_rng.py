from __future__ import annotations

import random

import numpy as np
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
