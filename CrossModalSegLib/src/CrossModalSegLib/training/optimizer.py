"""Optimisers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["adam", "adamw", "sgd"]


def build_optimizer(
    network: nn.Module, name: OptimizerName, learning_rate: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """An optimiser of all trainable parameters, fused into one kernel.

    Args:
        network: On its device.
        name: "adam", "adamw", or "sgd" with Nesterov momentum.
        learning_rate: At the start.
        weight_decay: For weights; biases, normalisation and activation parameters are not decayed.
        momentum: Of "sgd".
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, learning_rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, learning_rate, fused=True)
