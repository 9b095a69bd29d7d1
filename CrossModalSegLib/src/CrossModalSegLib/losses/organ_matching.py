"""Which query stands for which organ: organ-specific bipartite matching, and SEEM's over all queries.

With one target for the N queries of an organ, the assignment of the paper, whose costs are infinite for all other
queries, is the cheapest of those N. The ablation without it assigns all K * N queries of an image freely.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.point_sampling import POINTS, random_points, sample_points
from CrossModalSegLib.models.masked_decoder import Prediction

BCE_COST, DICE_COST = 2.0, 2.0
UNMATCHED = -1


@torch.no_grad()
def match(
    predictions: Sequence[Prediction],
    targets: Tensor,
    present: Tensor,
    within_organ: bool = True,
    *,
    points: int = POINTS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Match each organ that is there with a query, in each head by itself.

    Args:
        predictions: Of L heads.
        targets: (B, K, H, W), 1 or True in the organ.
        present: (B, K) bool: which organs are matched. Without `within_organ` only their queries can be.
        within_organ: Only an organ's own queries can be matched with it; else any query of the image, each once.
        points: The costs are computed on so many uniform points of each image, the same for all heads.
        generator: Of the points; None takes the global one.

    Returns:
        (L, B, K) long, an index into the K * N queries of an image (organ * N + query), or -1 for organs not present.

    Raises:
        InputError: The shapes do not fit each other.
    """
    check_targets(predictions[0], targets, present)
    b, k, n = predictions[0].masks.shape[:3]
    size = targets.shape[-2:]
    places = random_points(b, points, targets.device, generator)
    wanted = sample_points(targets, places, size)
    if not within_organ:
        values = (sample_points(each.masks.flatten(1, 2), places, size) for each in predictions)
        return torch.stack([_assign(matching_cost(each, wanted), present, n) for each in values])
    # Queries of organs that are not there, often half of them, need no cost.
    image, organ = present.nonzero(as_tuple=True)
    places, wanted = places[image], wanted[image, organ][:, None]
    pair = image * k + organ  # whole blocks of memory are taken by one index in a sixth of the time of two
    # One head after the other: all at once would not stay in the cache.
    values = (sample_points(each.masks.flatten(0, 1).index_select(0, pair), places, size) for each in predictions)
    best = torch.stack([matching_cost(each, wanted)[..., 0].argmin(-1) for each in values])
    matched = torch.full((len(predictions), b, k), UNMATCHED, device=best.device)
    matched[:, image, organ] = best + n * organ
    return matched


def matching_cost(masks: Tensor, targets: Tensor) -> Tensor:
    """C_match = 2 L_BCE + 2 L_Dice of each mask with each target.

    Args:
        masks: (M, Q, P) logits at points.
        targets: (M, T, P) in [0, 1].

    Returns:
        (M, Q, T) fp32.
    """
    with torch.autocast(masks.device.type, enabled=False):
        masks, targets = masks.float(), targets.float().transpose(1, 2)
        p = masks.shape[-1]
        bce = functional.softplus(masks).mean(-1, keepdim=True) - masks @ targets / p
        probabilities = masks.sigmoid()
        sizes = probabilities.sum(-1, keepdim=True) + targets.sum(1, keepdim=True)
        dice = 1.0 - (2.0 * (probabilities @ targets) + 1.0) / (sizes + 1.0)
        return BCE_COST * bce + DICE_COST * dice


def check_targets(prediction: Prediction, targets: Tensor, present: Tensor) -> None:
    """InputError unless targets are (B, K, H, W) and `present` is (B, K) bool, for the B and K of the prediction."""
    b, k = prediction.masks.shape[:2]
    if targets.ndim != 4 or targets.shape[:2] != (b, k) or present.shape != (b, k) or present.dtype != torch.bool:
        raise InputError(
            f"For masks of {b} images and {k} organs, targets ({b}, {k}, H, W) and bool flags ({b}, {k}) were "
            f"expected; got {tuple(targets.shape)} and {present.dtype} {tuple(present.shape)}."
        )


def _assign(costs: Tensor, present: Tensor, n: int) -> Tensor:
    # costs (B, K * N, K) -> (B, K); queries of organs that are not there belong to nobody.
    matched = torch.full(present.shape, UNMATCHED, dtype=torch.long)
    for i, (cost, is_there) in enumerate(zip(costs.cpu(), present.cpu())):
        organs = is_there.nonzero()[:, 0]
        queries = is_there.repeat_interleave(n).nonzero()[:, 0]
        if len(organs) == 0:
            continue
        rows, columns = linear_sum_assignment(cost[queries][:, organs].numpy())
        matched[i, organs[torch.from_numpy(columns)]] = queries[torch.from_numpy(rows)]
    return matched.to(present.device)
