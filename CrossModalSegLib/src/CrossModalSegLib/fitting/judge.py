"""Judging answers by scribbles that were held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from CrossModalSegLib.fitting.regions import scribbled_slices
from CrossModalSegLib.labels import UNLABELLED

# With fewer scribbled slices than this, all of them are needed to learn from.
FEWEST_SLICES = 4


@dataclass(frozen=True, eq=False)
class Judge:
    """Scribbles split by slices.

    Attributes:
        shown: (k, j, i) uint8, the scribbles to learn from.
        held_out: (k, j, i) uint8, the others; without any label when there were too few slices to split.
    """

    shown: np.ndarray
    held_out: np.ndarray

    @property
    def can_judge(self) -> bool:
        """Whether anything of a class was held out."""
        return bool(((self.held_out != UNLABELLED) & (self.held_out > 0)).any())

    def agreement(self, probabilities: np.ndarray) -> float | None:
        """Mean over the held-out classes of the soft Dice with the held-out scribbles.

        Args:
            probabilities: (K + 1, k, j, i).

        Returns:
            0 to 1, or None when nothing was held out.
        """
        scores = self.agreements(probabilities)
        return float(np.mean(list(scores.values()))) if scores else None

    def agreements(self, probabilities: np.ndarray) -> dict[int, float]:
        """The soft Dice of each held-out class, by its value; see `agreement`."""
        drawn = self.held_out != UNLABELLED
        labels = self.held_out[drawn]
        answers = probabilities[:, drawn]
        return {
            int(value): float(
                2 * answers[value, labels == value].sum() / (answers[value].sum() + (labels == value).sum())
            )
            for value in np.unique(labels[labels > 0])
        }


def split_scribbles(scribbles: np.ndarray, share: float, rng: np.random.Generator) -> Judge:
    """Hold out whole slices, never the last slices of a class.

    Args:
        scribbles: (k, j, i) uint8, internal convention.
        share: Of the scribbled slices that are held out.
        rng: Chooses them.
    """
    slices = scribbled_slices(scribbles)
    shown, held_out = scribbles.copy(), np.full_like(scribbles, UNLABELLED)
    wanted = round(share * len(slices)) if len(slices) >= FEWEST_SLICES else 0
    classes = [int(v) for v in np.unique(scribbles) if v not in (0, UNLABELLED)]
    for k in rng.permutation(slices):
        if wanted == 0:
            break
        remaining = np.delete(shown, k, axis=0)
        if all(len(scribbled_slices(remaining, value)) >= 2 or not (shown[k] == value).any() for value in classes):
            held_out[k], shown[k] = shown[k], UNLABELLED
            wanted -= 1
    return Judge(shown, held_out)
