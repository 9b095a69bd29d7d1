"""The states of all global random generators, as a checkpoint holds them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """States of Python, NumPy, torch, the present CUDA device (once CUDA is in use) and MPS (where there is one)."""
    legacy = np.random.get_state(legacy=False)
    legacy["state"]["key"] = legacy["state"]["key"].tolist()
    state = {"python": random.getstate(), "numpy": legacy, "torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # asking for the state would occupy the GPU
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng_state(state: Mapping[str, Any]) -> None:
    """Put what `rng_state` gave back."""
    legacy = dict(state["numpy"])
    legacy["state"] = {**legacy["state"], "key": np.array(legacy["state"]["key"], np.uint32)}
    random.setstate(state["python"])
    np.random.set_state(legacy)
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Leave the caller's random generators as they were: a library does not reseed a program."""
    before = rng_state()
    try:
        yield
    finally:
        restore_rng_state(before)
        if "cuda" not in before:
            # CUDA had no state yet: it shall begin with the caller's seed, at once or whenever it is first used.
            torch.cuda.manual_seed_all(torch.initial_seed())
