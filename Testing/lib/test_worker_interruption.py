from __future__ import annotations

import pytest
import torch
from torch import nn

from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.worker.interruption import stopping_forward_passes


class Stops(nn.Module):
    """A layer during which someone asks to stop."""

    def __init__(self, cancel: CancelToken) -> None:
        super().__init__()
        self._cancel = cancel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._cancel.cancel()
        return x


class Counts(nn.Module):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


def test_a_pass_ends_before_the_next_layer():
    cancel, last = CancelToken(), Counts()
    network = nn.Sequential(nn.Linear(2, 2), Stops(cancel), last)
    with pytest.raises(Cancelled), stopping_forward_passes(cancel):
        network(torch.zeros(1, 2))
    assert last.calls == 0
    network(torch.zeros(1, 2))  # outside, nobody looks
    assert last.calls == 1
