"""The probability from which on an organ counts as present."""

from __future__ import annotations

import numpy as np
import pytest

from CrossModalSegLib.inference.model_card import LEAST_PRESENCE
from CrossModalSegLib.training.referring.presence import choose_least_presence, least_presence


def of(absent: list[float], present: list[float]) -> float:
    """The choice for 20 copies of both."""
    probabilities = np.array((absent + present) * 20)
    return least_presence(probabilities, np.array(([False] * len(absent) + [True] * len(present)) * 20))


@pytest.mark.parametrize(
    ("absent", "present", "chosen"),
    [
        ([0.1, 0.2], [0.65, 0.99], 0.6),
        ([0.1, 0.92], [0.94, 0.99], 0.93),
        # Of two absent ones above every candidate that keeps the present ones, the nearest to the default.
        ([0.1, 0.2], [0.99], LEAST_PRESENCE),
        # Three candidates part them, which have the same errors: 0.75 to 0.85.
        ([0.72], [0.86], LEAST_PRESENCE),
        # At 0.85 two absent organs of three are marked, at 0.9 one, at 0.93 one present organ of two is missed.
        ([0.1, 0.87, 0.92], [0.91, 0.99], 0.9),
    ],
)
def test_the_lowest_sum_of_both_errors(absent, present, chosen):
    assert of(absent, present) == chosen


def test_the_default_where_one_kind_is_rare():
    probabilities, there = np.full(500, 0.6), np.arange(500) < 19
    assert least_presence(probabilities, there) == least_presence(probabilities, ~there) == LEAST_PRESENCE


def test_the_default_without_pairs():
    assert choose_least_presence(None, [], None) == LEAST_PRESENCE
