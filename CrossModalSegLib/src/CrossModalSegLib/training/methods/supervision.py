"""Learning from labelled voxels: partial cross-entropy, partial Dice beside it, and what else a network asks for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from CrossModalSegLib.losses.labelled_voxels import scribble_losses

BRANCHES = ("out", "ct", "mr")
SIMILARITY = "similarity"


def supervise(
    outputs: Mapping[str, Tensor], labels: Tensor, dice_weight: float, deep_supervision: bool
) -> dict[str, Tensor]:
    """Terms "pce" and, with a weight, "dice", each summed over the supervised branches (Eq. 4), and "similarity".

    The further predictions "aux1", "aux2" … of deeply supervised networks count with 1/2, 1/4 …; "aux" of the dual
    decoder belongs to DMSPS and does not count here. "similarity" is a loss term that M-CNN computes itself.

    Dense masks go through the same losses: there, every voxel within the volume is labelled.

    Args:
        outputs: Logits (N, K + 1, k, j, i) by branch.
        labels: (N, k, j, i), 255 where unlabelled.
        dice_weight: Of the partial Dice.
        deep_supervision: Supervise the single-modal branches and further predictions too, where there are some.
    """
    weights = _branch_weights(outputs) if deep_supervision else {"out": 1.0}
    pce, dice = scribble_losses([outputs[name] for name in weights], labels, with_dice=dice_weight > 0)
    shares = pce.new_tensor(list(weights.values()))
    terms = {"pce": (shares * pce).sum()}
    if dice is not None:
        terms["dice"] = dice_weight * (shares * dice).sum()
    if SIMILARITY in outputs:
        terms[SIMILARITY] = outputs[SIMILARITY]
    return terms


def _branch_weights(outputs: Mapping[str, Tensor]) -> dict[str, float]:
    weights = {name: 1.0 for name in BRANCHES if name in outputs}
    further = [name for name in outputs if name.startswith("aux") and name[3:].isdigit()]
    return weights | {name: 0.5 ** int(name[3:]) for name in further}
