"""Soft Dice loss over the scribbled voxels alone."""

from __future__ import annotations

from torch import Tensor

from CrossModalSegLib.losses.labelled_voxels import LabelledVoxels


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
    return LabelledVoxels.of([logits], scribbles).dice(include_background, smooth)[0]
