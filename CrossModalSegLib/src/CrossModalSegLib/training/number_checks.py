"""Checks of the numbers in the settings of a training."""

from __future__ import annotations

from collections.abc import Sequence

from CrossModalSegLib.errors import InputError


def check_numbers(config: object, counts: Sequence[str], amounts: Sequence[str], shares: Sequence[str]) -> None:
    """Check the fields of a training's settings, and the learning rate, gradient clip and average that all have.

    Args:
        config: The settings; None in a field stands for "not used".
        counts: Fields from 1 up.
        amounts: Fields from 0 up.
        shares: Fields within 0 and 1.

    Raises:
        InputError: A number is out of its range, or not one; the field is named.
    """
    for name in (*counts, *amounts, *shares):
        value, low = getattr(config, name), 1 if name in counts else 0
        if value is not None and not (low <= value and (value <= 1 or name not in shares)):
            bound = "within 0 and 1" if name in shares else f"{low} or more"
            raise InputError(f"{name} of a training is {bound}; got {value}.")
    for name in ("learning_rate", "gradient_clip"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise InputError(f"{name} of a training is above 0; got {value}.")
    if config.ema_decay is not None and not 0.0 <= config.ema_decay < 1.0:
        raise InputError(f"ema_decay lies within 0 and 1, 1 excluded; got {config.ema_decay}.")


def check_weights(config: object, owner: str, *names: str) -> None:
    """Check the weights of loss terms: a negative one would train the opposite of what it is for.

    Args:
        config: Settings of a method.
        owner: The method in words.
        names: Fields from 0 up.

    Raises:
        InputError: One is below 0, or no number.
    """
    for name in names:
        if not getattr(config, name) >= 0:
            raise InputError(f"The {name} of {owner} is 0 or more; got {getattr(config, name)}.")
