"""Soft Dice loss over the scribbled voxels alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.losses.partial_cross_entropy import check_targets


def partial_dice(logits: Tensor, scribbles: Tensor, include_background: bool = False, smooth: float = 1e-5) -> Tensor:
    """1 - soft Dice, computed over labelled voxels of the whole batch, averaged over the classes scribbled there.

    The partial Dice of ScribbleBench (Gotkowski et al., "Embarrassingly Simple Scribble Supervision for 3D Medical
    Segmentation", 2024). Classes without a scribble in the batch are left out: with nothing but other classes labelled
    their Dice would be 0 whatever the prediction. Zero with a graph when no class remains.

    Args:
        logits: (N, C, k, j, i).
        scribbles: (N, k, j, i), any integer type: a class 0..C-1, or 255 where nothing is labelled.
        include_background: Whether class 0 counts.
        smooth: Added to the denominator.

    Returns:
        Scalar, fp32 (fp64 for fp64 logits).

    Raises:
        InputError: The shapes do not fit each other.
    """
    check_targets(logits, scribbles)
    classes = logits.shape[1]
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits if logits.dtype == torch.float64 else logits.float()
        is_labelled = scribbles != UNLABELLED
        # Only labelled voxels are looked at, so a softmax of the whole patch would be wasted.
        probabilities = logits.movedim(1, -1)[is_labelled].softmax(-1)
        target = functional.one_hot(scribbles[is_labelled].long(), classes).to(probabilities.dtype)
        first = 0 if include_background else 1
        overlap = (probabilities * target).sum(0)[first:]
        size = (probabilities + target).sum(0)[first:]
        is_present = target.sum(0)[first:] > 0
        loss = (1.0 - 2.0 * overlap / (size + smooth)) * is_present
        return loss.sum() / is_present.sum().clamp(min=1)
