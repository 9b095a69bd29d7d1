"""How unsure a prediction is."""

from __future__ import annotations

import numpy as np

SMALLEST_PROBABILITY = np.float32(1e-12)


def normalized_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of the class probabilities over its largest possible value, ln(K + 1).

    Args:
        probabilities: (K + 1, k, j, i) float32, adding to one.

    Returns:
        (k, j, i) float32: 0 where one class is certain, 1 where all are equally likely.
    """
    entropy = np.zeros(probabilities.shape[1:], np.float32)
    for p in probabilities:
        entropy -= p * np.log(np.maximum(p, SMALLEST_PROBABILITY))
    entropy /= np.float32(np.log(probabilities.shape[0]))
    return np.clip(entropy, 0.0, 1.0, out=entropy)
