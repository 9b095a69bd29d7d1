"""Cross-entropy over the scribbled voxels alone (Eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import UNLABELLED


def partial_cross_entropy(logits: Tensor, scribbles: Tensor) -> Tensor:
    """Mean of -log y over the labelled voxels of the batch.

    Eq. 3 is printed as a sum; the mean keeps its size free of how much was scribbled. Without any labelled voxel it is
    zero and still has a graph, so that `backward` works on every patch.

    Args:
        logits: (N, C, k, j, i).
        scribbles: (N, k, j, i), any integer type: a class 0..C-1, or 255 where nothing is labelled.

    Returns:
        Scalar, fp32 (fp64 for fp64 logits).

    Raises:
        InputError: The shapes do not fit each other.
    """
    check_targets(logits, scribbles)
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits if logits.dtype == torch.float64 else logits.float()
        target = scribbles.long()
        summed = functional.cross_entropy(logits, target, ignore_index=UNLABELLED, reduction="sum")
        count = (target != UNLABELLED).sum()
        # A sum over no voxel is zero with a graph; only the division has to be kept from 0 / 0.
        return summed / count.clamp(min=1)


def check_targets(logits: Tensor, target: Tensor) -> None:
    """Raise InputError unless `logits` are (N, C, k, j, i) and `target` is (N, k, j, i) on the same grid."""
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.ndim != 5 or tuple(target.shape) != expected:
        raise InputError(
            "The loss expected logits (N, C, k, j, i) and labels (N, k, j, i) on one grid; "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}."
        )
