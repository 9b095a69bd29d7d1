"""Entropy minimisation (Grandvalet and Bengio, NeurIPS 2004)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.inside import inside_mean

DEFAULT_WEIGHT = 0.1


def entropy_loss(logits: Tensor, inside: Tensor | None = None) -> Tensor:
    """Mean over voxels of -sum_c y_c log y_c / ln C: 0 for certain, 1 for uniform predictions.

    Args:
        logits: (N, C, k, j, i).
        inside: (N, k, j, i) bool, False where a patch was padded: such voxels are left out. None: all are inside.

    Returns:
        Scalar, fp32 (fp64 for fp64 logits). The compared method weighs it with `DEFAULT_WEIGHT`.

    Raises:
        InputError: There are fewer than 2 classes.
    """
    classes = logits.shape[1]
    if classes < 2:
        raise InputError(f"The entropy loss needs at least 2 classes, background included; got {classes}.")
    with torch.autocast(logits.device.type, enabled=False):
        # From log-probabilities, since y log y of a probability that underflowed to 0 has no gradient.
        log_y = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(1)
        return -inside_mean((log_y.exp() * log_y).sum(1, keepdim=True), inside) / math.log(classes)
