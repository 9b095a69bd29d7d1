"""Confident predictions as labels: the second stage of DMSPS (Han et al., Medical Image Analysis 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.training.batches import Batch

STAGE_TWO = "second stage"


@dataclass(frozen=True)
class SecondStage:
    """Training on, with the network's own confident predictions as further labels.

    Attributes:
        share: Of all steps, at the end.
        max_uncertainty: Voxels count as labelled up to this entropy, divided by that of a uniform distribution.
    """

    share: float = 0.3
    max_uncertainty: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise InputError(f"The second stage's share of the steps lies between 0 and 1; got {self.share}.")
        if not 0.0 < self.max_uncertainty <= 1.0:
            raise InputError(f"The second stage's largest uncertainty lies within 0 and 1; got {self.max_uncertainty}.")


def confident_labels(probabilities: np.ndarray, scribbles: np.ndarray, max_uncertainty: float) -> np.ndarray:
    """The most probable class where the prediction is certain, 255 elsewhere; scribbles stay as they are.

    Args:
        probabilities: (K + 1, k, j, i) float32.
        scribbles: (k, j, i) uint8, 255 where unlabelled.
        max_uncertainty: Largest entropy / ln(K + 1).

    Returns:
        (k, j, i) uint8.
    """
    entropy = -sum(p * np.log(np.maximum(p, 1e-12)) for p in probabilities) / np.log(len(probabilities))
    labels = np.where(entropy <= max_uncertainty, probabilities.argmax(0), UNLABELLED).astype(np.uint8)
    return np.where(scribbles != UNLABELLED, scribbles, labels)


def fill_unlabelled(batch: Batch, name: str) -> Batch:
    """The batch with `extra[name]` as labels of the voxels that have none."""
    labels = torch.where(batch.labels == UNLABELLED, batch.extra[name], batch.labels)
    return replace(batch, labels=labels)
