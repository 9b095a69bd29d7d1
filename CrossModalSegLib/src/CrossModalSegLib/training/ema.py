"""An exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of a network whose weights follow those of the original.

    averaged <- d * averaged + (1 - d) * original, d = min(decay, (1 + t) / (10 + t)) after t updates: the average
    follows closely at first, so that it is not held back by the random initialisation.

    Attributes:
        network: The copy; in evaluation mode, without gradients.
        decay: The limit of d.
        updates: t.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(source).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        # Looking for them in a deep network takes as long as averaging them.
        self._own = _tensors(self.network)
        self._source, self._present = source, _tensors(source)

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Take the present weights of the original in; buffers, such as running statistics, are copied."""
        if source is not self._source:
            self._source, self._present = source, _tensors(source)
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        (averaged, own_buffers), (weights, buffers) = self._own, self._present
        torch._foreach_lerp_(averaged, weights, 1.0 - decay)
        for own, other in zip(own_buffers, buffers, strict=True):
            own.copy_(other)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Weights and number of updates."""
        return {"updates": self.updates, "network": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.updates = state["updates"]
        self.network.load_state_dict(state["network"])


def _tensors(network: nn.Module) -> tuple[list[nn.Parameter], list[Tensor]]:
    """Parameters and buffers."""
    return list(network.parameters()), list(network.buffers())
