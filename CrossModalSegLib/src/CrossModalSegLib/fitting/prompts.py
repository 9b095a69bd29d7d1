"""Prompt channels: what the user's scribbles say about one class, as maps that a network can read beside the image.

A prompted network is class-agnostic: it segments "what this scribble is on" against everything else, so one set of
weights serves any organ or tumour, in any modality.
"""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.fitting.geodesic import geodesic_posterior
from CrossModalSegLib.labels import UNLABELLED

PROMPT_CHANNELS = 4
INTENSITY_BINS = 32
MAX_LOG_RATIO = 4.0


def prompt_maps(
    images: np.ndarray, scribbles: np.ndarray, value: int, spacing: tuple[float, float, float]
) -> np.ndarray:
    """The prompt channels of one class.

    Args:
        images: (M, k, j, i) float32 in [0, 1].
        scribbles: (k, j, i) uint8; `UNLABELLED` where nothing was drawn.
        value: The class that is to be segmented.
        spacing: mm, (k, j, i).

    Returns:
        (4, k, j, i) float32: scribbles of the class (0 or 1), scribbles of anything else (0 or 1), the probability in
        [0, 1] that intensities like this voxel's belong to the class rather than to the rest, and how much nearer, in
        [0, 1], the class's scribbles are than the others when edges are hard to cross.
    """
    inside = scribbles == value
    outside = (scribbles != UNLABELLED) & ~inside
    likely = intensity_posterior(images, inside, outside)
    near = geodesic_posterior(images, scribbles, value, spacing)
    return np.stack([inside, outside, likely, near]).astype(np.float32)


def intensity_posterior(images: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Naive Bayes on smoothed histograms of the scribbled voxels, one histogram a modality.

    Args:
        images: (M, k, j, i) float32 in [0, 1].
        inside, outside: (k, j, i) bool.

    Returns:
        (k, j, i) float32 in [0, 1]; 0.5 everywhere when either side has no scribble.
    """
    log_ratio = np.zeros(images.shape[1:], np.float32)
    if inside.any() and outside.any():
        for image in images:
            bins = np.clip((image * INTENSITY_BINS).astype(np.int16), 0, INTENSITY_BINS - 1)
            ratio = np.log(_histogram(bins[inside]) / _histogram(bins[outside])).astype(np.float32)
            log_ratio += ratio[bins]
        log_ratio /= len(images)
    return 1.0 / (1.0 + np.exp(-np.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)))


def _histogram(bins: np.ndarray) -> np.ndarray:
    """Relative frequencies (INTENSITY_BINS,), smoothed over neighbouring bins and never zero."""
    counts = np.bincount(bins, minlength=INTENSITY_BINS).astype(np.float64)
    padded = np.pad(counts, 2, mode="edge")
    smooth = np.convolve(padded, [0.1, 0.2, 0.4, 0.2, 0.1], mode="valid") + 0.02 * counts.sum() / INTENSITY_BINS
    return smooth / smooth.sum()
