from __future__ import annotations

import pytest
import torch
from torch import nn

from CrossModalSegLib.training.ema import WeightAverage


def constant(value):
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(network[0].weight, value)
    return network


def test_the_average_follows_closely_first_and_slowly_then():
    average = WeightAverage(constant(0.0), 0.5)
    average.update(constant(1.0))  # d = 1 / 10
    assert average.network[0].weight.item() == pytest.approx(0.9)
    average.updates = 1000
    average.update(constant(0.0))  # d = 0.5
    assert average.network[0].weight.item() == pytest.approx(0.45)


def test_buffers_are_copied_and_no_gradient_is_kept():
    source = constant(1.0)
    average = WeightAverage(source, 0.9)
    source[1].running_mean.fill_(3.0)
    average.update(source)
    assert average.network[1].running_mean.item() == 3.0
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())
    assert source[0].weight.requires_grad


def test_it_continues_from_its_state():
    first, second = WeightAverage(constant(0.0), 0.99), WeightAverage(constant(5.0), 0.99)
    first.update(constant(1.0))
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.update(constant(2.0))
    assert torch.equal(first.network[0].weight, second.network[0].weight) and second.updates == 2
