"""From which probability on an organ counts as present in a slice, chosen on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from CrossModalSegLib.data.referring.pair_sampler import PairBatch
from CrossModalSegLib.inference.model_card import LEAST_PRESENCE
from CrossModalSegLib.models.crossmr import CrossMR, choose

if TYPE_CHECKING:
    from lightning.fabric import Fabric

CANDIDATES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97)
# With fewer organs that are there, or that are not, the choice would be one of chance.
LEAST_OF_EACH = 20


def choose_least_presence(network: CrossMR, pairs: Sequence[PairBatch], fabric: Fabric) -> float:
    """The `least_presence` of a trained network's card.

    Args:
        network: In the mode of evaluation, on the device.
        pairs: Held-out ones; the organs of the references are looked for in the targets.
        fabric: Says where, and in which precision.
    """
    probabilities, there = [], []
    for batch in pairs:
        batch = batch.to(fabric.device)
        with torch.no_grad(), fabric.autocast():
            predictions = network(batch.images[0], batch.scribbles[0], batch.images[1], batch.organ_ids)
        asked = batch.organs[0]
        probabilities.append(choose(predictions[-1])[1][asked].cpu().numpy())
        there.append(batch.present[1][asked].cpu().numpy())
    if not probabilities:
        return LEAST_PRESENCE
    return least_presence(np.concatenate(probabilities), np.concatenate(there))


def least_presence(probabilities: np.ndarray, there: np.ndarray) -> float:
    """The candidate with the lowest sum of two shares: absent organs that count as present, and the reverse.

    Args:
        probabilities: (M,) that an organ is in a slice.
        there: (M,) bool, whether it is.

    Returns:
        The default where either kind is too rare to tell; of equally good candidates the one nearest to it.
    """
    if min(np.count_nonzero(there), np.count_nonzero(~there)) < LEAST_OF_EACH:
        return LEAST_PRESENCE
    errors = [np.mean(probabilities[~there] >= each) + np.mean(probabilities[there] < each) for each in CANDIDATES]
    return min(zip(errors, CANDIDATES, strict=True), key=lambda pair: (pair[0], abs(pair[1] - LEAST_PRESENCE)))[1]
