"""Which weights a training exports, and which labels its second stage learns from, with doubles of what is around."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from CrossModalSegLib.training.export import best_network
from CrossModalSegLib.training.loop import TrainingLoop
from CrossModalSegLib.training.network_run import NetworkRun
from CrossModalSegLib.training.pseudo_labels import STAGE_TWO, SecondStage


def weighing(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


@pytest.mark.parametrize(("scores", "expected"), [([0.2, 0.6, 0.6, 0.5], 1.0), ([None, 0.0, None], 1.0), ([None], 9.0)])
def test_the_weights_of_the_best_validation_are_exported(scores, expected):
    """Of equally good ones the first; without any the last ones."""
    network = weighing(0.0)
    run = SimpleNamespace(evaluated_network=network, best_score=None, best_weights=None)
    for step, score in enumerate(scores):
        nn.init.constant_(network.weight, float(step))
        NetworkRun.keep_if_best(run, score)
    nn.init.constant_(network.weight, 9.0)
    assert best_network(run).weight.item() == expected
    assert network.weight.item() == 9.0


def second_stage(step: int, extra: dict) -> tuple[TrainingLoop, list]:
    """A training of two cases, one scribbled at its first voxel and one at its second, before a step."""
    scribbles = [np.array([[[0, 255, 255]]], np.uint8), np.array([[[255, 1, 255]]], np.uint8)]
    given: list[dict] = []
    run = SimpleNamespace(
        config=SimpleNamespace(second_stage=SecondStage(max_uncertainty=0.5)),
        step=step,
        first_stage_steps=7,
        stream=SimpleNamespace(sampler=SimpleNamespace(extra=extra, labels=scribbles)),
        method=SimpleNamespace(
            labelling_network=lambda network: ("labels of", network), is_refresh_due=lambda _: False
        ),
        evaluated_network="network",
        set_label_maps=given.append,
    )
    loop = object.__new__(TrainingLoop)
    loop.training, loop.cases = run, SimpleNamespace(training=("first", "second"))
    loop._changing = nullcontext
    certain = {"first": [0.01, 0.01, 0.5], "second": [0.99, 0.01, 0.99]}

    def predict(network, case):
        assert network == ("labels of", "network")
        p = np.array(certain[case], np.float32)
        return np.stack([1 - p, p]).reshape(2, 1, 1, 3)

    loop._predict = predict
    return loop, given


def test_the_second_stage_begins_with_confident_labels_of_each_case():
    loop, given = second_stage(7, {})
    loop.prepare_step()
    (maps,) = given
    assert [labels.ravel().tolist() for labels in maps[STAGE_TWO]] == [[0, 0, 255], [1, 1, 1]]


@pytest.mark.parametrize(("step", "extra"), [(6, {}), (8, {}), (7, {STAGE_TWO: []})])
def test_the_labels_of_the_second_stage_are_made_once(step, extra):
    loop, given = second_stage(step, extra)
    loop.prepare_step()
    assert given == []


def test_a_kept_copy_of_weights_does_not_change_with_the_network():
    network = weighing(1.0)
    run = SimpleNamespace(evaluated_network=network, best_score=None, best_weights=None)
    NetworkRun.keep_if_best(run, 0.5)
    with torch.no_grad():
        network.weight += 1
    assert run.best_weights["weight"].item() == 1.0
