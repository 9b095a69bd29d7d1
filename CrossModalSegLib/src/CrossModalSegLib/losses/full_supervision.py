"""Losses for dense masks: the upper bound of Tables I and II and the methods of Table III."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.partial_cross_entropy import check_targets, partial_cross_entropy


def full_supervision(logits: Tensor, mask: Tensor, kind: Literal["ce", "dice_ce"] = "ce") -> Tensor:
    """Cross-entropy, or MONAI's Dice plus cross-entropy, with a dense mask.

    Args:
        logits: (N, C, k, j, i).
        mask: (N, k, j, i), any integer type, every voxel a class 0..C-1.
        kind: "ce", the paper's full supervision, or "dice_ce" (soft Dice of the foreground classes, pooled over the
            batch, plus cross-entropy).

    Returns:
        Scalar, fp32 (fp64 for fp64 logits).

    Raises:
        InputError: The shapes do not fit, the mask has a value that is no class, or an unknown kind.
    """
    check_targets(logits, mask)
    highest = int(mask.max())
    if highest >= logits.shape[1]:
        raise InputError(
            f"Full supervision expected mask values 0..{logits.shape[1] - 1}; got {highest}. "
            "Scribbles (255 = unlabelled) go into the partial losses."
        )
    if kind == "ce":
        return partial_cross_entropy(logits, mask)
    if kind != "dice_ce":
        raise InputError(f'The kind of full supervision must be "ce" or "dice_ce"; got {kind!r}.')
    from monai.losses import DiceCELoss  # importing MONAI takes seconds, which plain cross-entropy need not wait for

    with torch.autocast(logits.device.type, enabled=False):
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        return loss(logits, mask[:, None].long())
