from __future__ import annotations

import pytest
import torch
from torch import nn

from CrossModalSegLib.training.optimizer import build_optimizer


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_only_weights_are_decayed(name, kind):
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.PReLU(2))
    optimizer = build_optimizer(network, name, 0.1, 0.01, 0.9)
    assert type(optimizer).__name__ == kind
    decays = [(sorted(p.ndim for p in group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    assert decays == [([5], 0.01), ([1, 1], 0.0)]
    network(torch.ones(1, 1, 2, 2, 2)).sum().backward()
    before = network[0].weight.clone()
    optimizer.step()
    assert not torch.equal(before, network[0].weight)


def test_frozen_parameters_are_left_out():
    network = nn.Linear(2, 2).requires_grad_(False)
    network.weight.requires_grad_(True)
    groups = build_optimizer(network, "adam", 0.1, 0.0, 0.0).param_groups
    assert sum(len(group["params"]) for group in groups) == 1


def test_a_part_gets_its_share_of_the_rate():
    network = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    groups = build_optimizer(network, "adamw", 0.1, 0.01, rate_shares={"encoder.": 0.5}).param_groups
    found = [(len(group["params"]), group["rate_share"], group["lr"], group["weight_decay"]) for group in groups]
    assert found == [(1, 1.0, 0.1, 0.01), (1, 1.0, 0.1, 0.0), (1, 0.5, 0.05, 0.01), (1, 0.5, 0.05, 0.0)]
    assert groups[2]["params"][0] is network["encoder"].weight
