"""The loss of CrossMR: masks of the matched queries, the choice among an organ's queries, and the organ's presence.

Ours is the term "absent": the mask that would be the answer is empty where the organ is not in the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.organ_matching import check_targets, match
from CrossModalSegLib.losses.point_sampling import (
    IMPORTANCE,
    OVERSAMPLE,
    POINTS,
    as_floats,
    sample_points,
    uncertain_points,
)
from CrossModalSegLib.models.masked_decoder import Prediction


@dataclass(frozen=True)
class ReferringLoss:
    """Deeply supervised referring segmentation.

    Attributes:
        bce, dice: Weights of the mask terms (2.5 each in the paper), over the matched queries.
        select: Weight of the cross-entropy that makes the matched query the most similar to its organ's prototype.
        presence: Weight of the binary cross-entropy of "the organ is in this target", over all queries of an organ.
        absent: Weight of the binary cross-entropy that empties the chosen masks of organs that are not in the target;
            0 leaves them to the presence alone.
        within_organ: Match an organ with its own queries only; else with any query of the image (SEEM). A query of
            another organ cannot be chosen for this one, so such a match has no select term.
        points: At which masks are compared, and matched.
        oversample, importance: As in `uncertain_points`.
    """

    bce: float = 2.5
    dice: float = 2.5
    select: float = 1.0
    presence: float = 1.0
    absent: float = 0.0
    within_organ: bool = True
    points: int = POINTS
    oversample: int = OVERSAMPLE
    importance: float = IMPORTANCE

    def __post_init__(self) -> None:
        for name in ("bce", "dice", "select", "presence", "absent"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} of the referring loss must be 0 or more; got {getattr(self, name)}.")
        if self.points < 1 or self.oversample < 1 or not 0.0 <= self.importance <= 1.0:
            raise InputError(
                "The referring loss needs points and oversample of at least 1 and an importance within 0 and 1; got "
                f"{self.points}, {self.oversample} and {self.importance}."
            )

    def __call__(
        self,
        predictions: Sequence[Prediction],
        targets: Tensor,
        present: Tensor,
        organs: Tensor,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The terms; their sum is the loss.

        Args:
            predictions: Of all heads.
            targets: (B, K, H, W), 1 or True in the organ.
            present: (B, K) bool, the organ is in the target. Others train the presence, and "absent" if it has weight.
            organs: (B, K) bool, the organ is asked for. Others are padding and are ignored.
            generator: Of the sampled points; None takes the global one.

        Returns:
            Scalars "bce", "dice", "select", "presence" and, where it has weight, "absent", each weighted, and a mean
            over organs and over heads; zero with a graph where there is nothing to train.

        Raises:
            InputError: There is no prediction, or the shapes do not fit each other.
        """
        if not predictions:
            raise InputError("The referring loss needs the prediction of one head at least; got none.")
        check_targets(predictions[0], targets, present)
        check_targets(predictions[0], targets, organs)
        with torch.autocast(targets.device.type, enabled=False):
            aims = _aims(targets, present & organs, organs)
            terms = self._terms(predictions, aims, generator)
        weights = {"bce": self.bce, "dice": self.dice, "select": self.select, "presence": self.presence}
        if self.absent > 0:
            weights["absent"] = self.absent
        return {name: weight * terms[name] for name, weight in weights.items()}

    def _terms(
        self, predictions: Sequence[Prediction], aims: _Aims, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        # Each head has as many masks as any other, so that a mean over all of them is one over heads and organs.
        matched = match(
            predictions, aims.targets, aims.there, self.within_organ, points=self.points, generator=generator
        )
        queries = matched[:, aims.image, aims.organ]
        masks, empty = _masks_of(predictions, aims, queries, with_missing=self.absent > 0)
        bce, dice = self._mask_terms(masks, aims.masks, generator)
        similarity = torch.stack([each.similarity for each in predictions])
        presence = torch.stack([each.presence for each in predictions])
        terms = {
            "bce": bce,
            "dice": dice,
            "select": select_term(similarity, aims.image, aims.organ, queries),
            "presence": presence_term(presence, aims.there, aims.organs),
        }
        if self.absent > 0:
            terms["absent"] = self._absent_term(empty, aims.targets.shape[-2:], generator)
        return terms

    def _absent_term(self, masks: Tensor, size: torch.Size, generator: torch.Generator | None) -> Tensor:
        if len(masks) == 0:
            return masks.float().sum()
        return functional.softplus(self._sampled(masks, size, generator)[0]).mean()

    def _mask_terms(self, masks: Tensor, targets: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        # Of the masks (M, L, h, w) that L heads predict for targets (M, H, W).
        if len(masks) == 0:
            return masks.float().sum(), masks.float().sum()
        logits, places = self._sampled(masks, targets.shape[-2:], generator)
        wanted = sample_points(targets[:, None], places.flatten(1, 2), targets.shape[-2:]).view_as(logits)
        return functional.binary_cross_entropy_with_logits(logits, wanted), dice_term(logits, wanted)

    def _sampled(self, masks: Tensor, size: torch.Size, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        # Values (M, L, P) of the masks (M, L, h, w) at their points (M, L, P, 2).
        places = uncertain_points(masks, size, self.points, self.oversample, self.importance, generator)
        values = sample_points(masks.flatten(0, 1)[:, None], places.flatten(0, 1), size)
        return values.view(places.shape[:-1]), places


@dataclass(frozen=True, eq=False)
class _Aims:
    """What all heads are compared with.

    Attributes:
        targets: (B, K, H, W) float: what points are sampled from, converted once for all heads.
        there, organs: (B, K) bool: in the target and asked for, and asked for.
        image, organ: (M,) indices of the organs that are there.
        masks: (M, H, W), their targets.
        missing: Indices of the organs that are asked for and not there.
    """

    targets: Tensor
    there: Tensor
    organs: Tensor
    image: Tensor
    organ: Tensor
    masks: Tensor
    missing: tuple[Tensor, Tensor]


def _aims(targets: Tensor, there: Tensor, organs: Tensor) -> _Aims:
    targets = as_floats(targets)
    image, organ = there.nonzero(as_tuple=True)
    missing = (organs & ~there).nonzero(as_tuple=True)
    masks = targets.flatten(0, 1).index_select(0, image * targets.shape[1] + organ)
    return _Aims(targets, there, organs, image, organ, masks, missing)


def _masks_of(
    predictions: Sequence[Prediction], aims: _Aims, queries: Tensor, with_missing: bool
) -> tuple[Tensor, Tensor]:
    """Masks (M, L, h, w) of the matched queries (L, M), and those that would be the answers for missing organs.

    They are taken at once: in a step back each time would fill, and add up, gradients of all masks.
    """
    image, organ = aims.missing if with_missing else (each[:0] for each in aims.missing)
    images, n, taken = torch.cat([aims.image, image]), predictions[0].masks.shape[2], []
    for each, matched in zip(predictions, queries):
        answers = each.similarity[image, organ].argmax(-1) + n * organ
        taken.append(each.masks.flatten(1, 2)[images, torch.cat([matched, answers])])
    matched, missing = torch.stack(taken, 1).split([len(aims.image), len(image)])
    return matched, missing


def dice_term(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over masks of 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), for logits and targets (..., P)."""
    p = logits.sigmoid()
    overlap = (p * targets).sum(-1)
    return (1.0 - (2.0 * overlap + 1.0) / (p.sum(-1) + targets.sum(-1) + 1.0)).mean()


def select_term(similarity: Tensor, image: Tensor, organ: Tensor, query: Tensor) -> Tensor:
    """Mean cross-entropy of the similarities of an organ's queries, the matched one being the answer.

    Args:
        similarity: (..., B, K, N); of several heads the mean of their means.
        image, organ: Of M matches, (M,).
        query: (..., M), an index into all K * N of its image. That of another organ has no part in the mean.
    """
    n = similarity.shape[-1]
    logits = similarity.float()[..., image, organ, :]
    errors = functional.cross_entropy(logits.flatten(0, -2), (query % n).flatten(), reduction="none")
    is_own = query // n == organ
    return ((errors.view_as(query) * is_own).sum(-1) / is_own.sum(-1).clamp(min=1)).mean()


def presence_term(presence: Tensor, there: Tensor, organs: Tensor) -> Tensor:
    """Mean binary cross-entropy over all queries of the organs asked for.

    Args:
        presence: (..., B, K, N) logits, of one head or of several.
        there, organs: (B, K) bool.
    """
    logits = presence.float()[..., organs, :]
    wanted = there[organs].to(logits.dtype)[:, None].expand_as(logits)
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / max(1, logits.numel())
