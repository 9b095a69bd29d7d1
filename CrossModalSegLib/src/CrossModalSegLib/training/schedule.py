"""Learning rates as a function of the step, or of the share that is done, alone, so that there is no state to save."""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["constant", "poly", "cosine"]
POLY_POWER = 0.9


def learning_rate(base: float, step: int, total: int, schedule: ScheduleName, warm_up: int = 0) -> float:
    """The learning rate of a step.

    Args:
        base: The highest rate.
        step: Steps done before this one.
        total: Steps in all.
        schedule: "constant"; "poly": base * (1 - step / total)^0.9; "cosine": half a cosine to 0.
        warm_up: Steps over which the rate rises linearly.
    """
    return learning_rate_at(base, min(1.0, step / max(1, total)), schedule, step, warm_up)


def learning_rate_at(base: float, done: float, schedule: ScheduleName, step: int, warm_up: int = 0) -> float:
    """The learning rate where a share of the training, 0 to 1, is done; see `learning_rate`."""
    ramp = min(1.0, (step + 1) / (warm_up + 1))
    if schedule == "poly":
        return base * ramp * (1.0 - done) ** POLY_POWER
    if schedule == "cosine":
        return base * ramp * 0.5 * (1.0 + math.cos(math.pi * done))
    return base * ramp


def sigmoid_ramp(step: int, length: int) -> float:
    """exp(-5 (1 - step / length)^2), from near 0 to 1 over `length` steps (Laine and Aila 2017); 1 for length 0."""
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(1.0, step / length)) ** 2)
