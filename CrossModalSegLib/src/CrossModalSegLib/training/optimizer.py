"""Optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["adam", "adamw", "sgd"]


def build_optimizer(
    network: nn.Module,
    name: OptimizerName,
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.0,
    rate_shares: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """An optimiser of all trainable parameters, fused into one kernel.

    Args:
        network: On its device.
        name: "adam", "adamw", or "sgd" with Nesterov momentum.
        learning_rate: At the start.
        weight_decay: For weights; biases, normalisation and activation parameters are not decayed.
        momentum: Of "sgd".
        rate_shares: By a part of the network (the beginning of its parameters' names), the share of the learning rate
            that it gets; each group of parameters keeps its own as "rate_share".
    """
    shares = {"": 1.0, **(rate_shares or {})}
    parameters: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for each, parameter in network.named_parameters():
        if parameter.requires_grad:
            part = max((part for part in shares if each.startswith(part)), key=len)
            parameters.setdefault((part, parameter.ndim > 1), []).append(parameter)
    groups = [
        {
            "params": parameters[part, is_decayed],
            "weight_decay": weight_decay if is_decayed else 0.0,
            "rate_share": shares[part],
            "lr": learning_rate * shares[part],
        }
        for part in shares
        for is_decayed in (True, False)
        if (part, is_decayed) in parameters
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, learning_rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, learning_rate, fused=True)
