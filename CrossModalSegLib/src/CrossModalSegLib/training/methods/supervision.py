"""Learning from labelled voxels: partial cross-entropy, and partial Dice beside it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from CrossModalSegLib.losses.partial_cross_entropy import partial_cross_entropy
from CrossModalSegLib.losses.partial_dice import partial_dice

BRANCHES = ("out", "ct", "mr")


def supervise(
    outputs: Mapping[str, Tensor], labels: Tensor, dice_weight: float, deep_supervision: bool
) -> dict[str, Tensor]:
    """Terms "pce" and, with a weight, "dice", each summed over the supervised branches (Eq. 4).

    Dense masks go through the same losses: there, every voxel within the volume is labelled.

    Args:
        outputs: Logits (N, K + 1, k, j, i) by branch.
        labels: (N, k, j, i), 255 where unlabelled.
        dice_weight: Of the partial Dice.
        deep_supervision: Supervise the single-modal branches too, where the network has them.
    """
    names = [name for name in BRANCHES if name in outputs] if deep_supervision else ["out"]
    terms = {"pce": sum(partial_cross_entropy(outputs[name], labels) for name in names)}
    if dice_weight > 0:
        terms["dice"] = dice_weight * sum(partial_dice(outputs[name], labels) for name in names)
    return terms
