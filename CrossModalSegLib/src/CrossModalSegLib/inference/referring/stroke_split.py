"""Strokes split into those to learn from and those that only judge."""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.fitting.judge import FEWEST_SLICES, Judge, split_scribbles
from CrossModalSegLib.labels import UNLABELLED

# A stroke of fewer pixels is not cut.
FEWEST_PIXELS = 8


def split_strokes(scribbles: np.ndarray, share: float, rng: np.random.Generator) -> Judge:
    """Hold out whole slices where enough are scribbled, else a stretch of each stroke.

    Args:
        scribbles: (S, H, W) uint8, internal convention.
        share: What is held out: of the slices, or of each stroke's length.
        rng: Chooses.
    """
    if int((scribbles != UNLABELLED).any(axis=(1, 2)).sum()) >= FEWEST_SLICES:
        judge = split_scribbles(scribbles, share, rng)
        if judge.can_judge:
            return judge
    shown, held_out = scribbles.copy(), np.full_like(scribbles, UNLABELLED)
    for where in strokes(scribbles):
        if len(where) >= FEWEST_PIXELS:
            stretch = tuple(random_stretch(where, share, rng).T)
            held_out[stretch], shown[stretch] = shown[stretch], UNLABELLED
    return Judge(shown, held_out)


def strokes(scribbles: np.ndarray) -> list[np.ndarray]:
    """The pixels (n, 3) of each class, background included, on each slice, in order along their longest direction."""
    found = []
    for index in np.flatnonzero((scribbles != UNLABELLED).any(axis=(1, 2))):
        for value in np.unique(scribbles[index]):
            if value != UNLABELLED:
                pixels = np.argwhere(scribbles[index] == value)
                where = pixels[np.argsort(_along(pixels), kind="stable")]
                found.append(np.column_stack([np.full(len(where), index), where]))
    return found


def random_stretch(where: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A stretch of consecutive pixels (n, 3) of a stroke, at least one."""
    length = max(1, round(share * len(where)))
    start = int(rng.integers(0, len(where) - length + 1))
    return where[start : start + length]


def _along(pixels: np.ndarray) -> np.ndarray:
    """Positions of pixels (n, 2) along the direction in which they spread most."""
    centred = pixels - pixels.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[0]
