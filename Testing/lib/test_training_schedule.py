from __future__ import annotations

import math

import pytest

from CrossModalSegLib.training.schedule import learning_rate, learning_rate_at, sigmoid_ramp


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 99, 2.0),
        ("poly", 0, 2.0),
        ("poly", 50, 2.0 * 0.5**0.9),
        ("poly", 100, 0.0),
        ("cosine", 50, 1.0),
        ("cosine", 100, 0.0),
    ],
)
def test_rates(schedule, step, expected):
    assert learning_rate(2.0, step, 100, schedule) == pytest.approx(expected)


def test_the_warm_up_is_linear():
    rates = [learning_rate(1.0, step, 1000, "constant", warm_up=4) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_the_ramp_goes_from_near_zero_to_one():
    assert sigmoid_ramp(0, 10) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(5, 10) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(10, 10) == sigmoid_ramp(99, 10) == sigmoid_ramp(0, 0) == 1.0


def test_a_rate_by_the_share_that_is_done_is_that_by_steps():
    for name in ("constant", "poly", "cosine"):
        by_steps = learning_rate(2.0, 30, 100, name, warm_up=40)
        assert learning_rate_at(2.0, 0.3, name, step=30, warm_up=40) == pytest.approx(by_steps)
