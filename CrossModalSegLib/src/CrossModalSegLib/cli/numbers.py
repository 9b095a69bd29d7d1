"""Checks of numbers that several commands take."""

from __future__ import annotations

import math

from CrossModalSegLib.errors import InputError

LARGEST_SEED = 2**31 - 1


def check_seed(seed: int | None) -> None:
    """Check --seed; None stands for the default.

    Raises:
        InputError: it is negative, or larger than random generators take.
    """
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"--seed should be a whole number from 0 to {LARGEST_SEED}, got {seed}.")


def check_duration(option: str, value: float, may_be_zero: bool = False) -> None:
    """Check a time that was given on the command line.

    Raises:
        InputError: it is negative, infinite or not a number, or 0 where that may not be.
    """
    if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
        wanted = "0 or above" if may_be_zero else "above 0"
        raise InputError(f"{option} should be {wanted} and finite, got {value:g}.")
