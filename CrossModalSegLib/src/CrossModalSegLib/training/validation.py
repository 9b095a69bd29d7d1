"""Validation with the predictor that ships, on masks or on scribbles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.inference.predictor import predict
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.progress import CancelToken


@dataclass(frozen=True)
class Validation:
    """Dice of all cases and classes.

    Attributes:
        dice: One row a case, one value a class 1..K; None where neither prediction nor reference has the class.
    """

    dice: tuple[tuple[float | None, ...], ...]

    @property
    def mean(self) -> float | None:
        """Over all classes and cases that have a value."""
        return _mean([value for row in self.dice for value in row])

    @property
    def by_class(self) -> tuple[float | None, ...]:
        """Means over the cases."""
        return tuple(_mean(values) for values in zip(*self.dice, strict=True))


def validate(
    network: nn.Module,
    cases: Sequence[tuple[PreparedCase, np.ndarray]],
    num_classes: int,
    *,
    device: torch.device,
    precision: Literal["bf16", "fp32"],
    cancel: CancelToken | None = None,
) -> Validation:
    """Predict cases and compare them with their references, on the working grid.

    Args:
        network: The network; it is back in its mode afterwards.
        cases: Each with its reference (k, j, i) uint8, 255 where it says nothing.
        num_classes: K + 1.
        device: Where to predict.
        precision: To predict in.
        cancel: Looked at before each window.
    """
    rows = []
    for case, reference in cases:
        probabilities = predict(network, case.images, device=device, precision=precision, cancel=cancel)
        rows.append(dice_by_class(probabilities.argmax(0), reference, num_classes))
    return Validation(tuple(rows))


def dice_by_class(labels: np.ndarray, reference: np.ndarray, num_classes: int) -> tuple[float | None, ...]:
    """Dice of the classes 1..K over the voxels that the reference labels; None where neither has the class."""
    known = reference != UNLABELLED
    pairs = reference[known].astype(np.int64) * num_classes + labels[known]
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    sizes = counts.sum(0) + counts.sum(1)
    return tuple(float(2 * counts[c, c] / sizes[c]) if sizes[c] else None for c in range(1, num_classes))


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
