"""Loss and Dice of held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from CrossModalSegLib.data.referring.pair_sampler import PairBatch
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.training.referring.step import CrossMRStep, UNetStep
from CrossModalSegLib.training.rng import isolated_rng, seed_everything

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@torch.no_grad()
def validate_pairs(
    step: CrossMRStep | UNetStep,
    pairs: Sequence[PairBatch],
    names: Sequence[str],
    fabric: Fabric,
    cancel: CancelToken | None = None,
) -> dict[str, Any]:
    """Mean loss of the answers, and Dice of the targets that hold the organ.

    Args:
        step: With the network to validate; back in its mode afterwards.
        pairs: Batches.
        names: Of the label values 1, 2, ….
        fabric: Says where, and in which precision.
        cancel: Looked at before each batch.

    Returns:
        "loss", "dice" (mean over organs, None without any), and "dice_by_class" by name.
    """
    was_training = step.training
    step.eval()
    losses: list[float] = []
    found: dict[int, list[float]] = {}
    with isolated_rng():
        seed_everything(0)  # where a loss draws points, it draws the same ones each time
        for batch in pairs:
            if cancel is not None:
                cancel.raise_if_cancelled()
            batch = batch.to(fabric.device)
            with fabric.autocast():
                loss, masks = step.judge(batch)
            losses.append(float(loss))
            for value, dice in organ_dice(masks, batch):
                found.setdefault(value, []).append(dice)
    step.train(was_training)
    by_class = {name: float(np.mean(found[n])) if n in found else None for n, name in enumerate(names, start=1)}
    present = [dice for dice in by_class.values() if dice is not None]
    return {
        "loss": float(np.mean(losses)),
        "dice": float(np.mean(present)) if present else None,
        "dice_by_class": by_class,
    }


def organ_dice(masks: Tensor, batch: PairBatch) -> list[tuple[int, float]]:
    """Label value and Dice of each organ that was asked for and is in its target."""
    truth = batch.masks[1]
    wanted = batch.organs[0] & batch.present[1]
    both = 2 * (masks & truth).flatten(2).sum(-1)
    dice = both / (masks.flatten(2).sum(-1) + truth.flatten(2).sum(-1)).clamp(min=1)
    return list(zip(batch.organ_ids[wanted].tolist(), dice[wanted].tolist(), strict=True))
