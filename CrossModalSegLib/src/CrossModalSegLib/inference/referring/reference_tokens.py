"""What the scribbles on a reference say, for each target slice from the scribbled slices nearest to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from CrossModalSegLib.data.referring.pairing import nearest_slices
from CrossModalSegLib.inference.referring.features import FeatureStore
from CrossModalSegLib.inference.referring.referred_volume import ReferredVolume
from CrossModalSegLib.models.crossmr import CrossMR, VisualTokens
from CrossModalSegLib.progress import CancelToken

# By organ: the reference slices whose strokes serve it, ascending.
Selection = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class ReferenceTokens:
    """Visual tokens of the scribbled slices of a reference.

    Attributes:
        slices: Scribbled slices, ascending.
        tokens: Of each of them, (1, K, P, C).
        by_organ: The slices with strokes on each of the K organs.
    """

    slices: tuple[int, ...]
    tokens: tuple[VisualTokens, ...]
    by_organ: tuple[tuple[int, ...], ...]

    def shown(self, count: int) -> np.ndarray:
        """(S, K) bool: which of the S slices of the reference have a stroke on which organ."""
        shown = np.zeros((count, len(self.by_organ)), bool)
        for organ, slices in enumerate(self.by_organ):
            shown[list(slices), organ] = True
        return shown

    def select(self, position: float, limit: int) -> Selection:
        """The scribbled slices that serve a target slice, by organ.

        Args:
            position: Of the target slice, in slices of the reference.
            limit: Slices of an organ, at most.
        """
        return tuple(tuple(sorted(nearest_slices(position, slices, limit))) for slices in self.by_organ)

    def merged(self, selection: Selection) -> VisualTokens:
        """The tokens of a selection as those of one reference, (1, K, P', C)."""
        chosen = sorted({index for slices in selection for index in slices})
        parts = []
        for index in chosen:
            tokens = self.tokens[self.slices.index(index)]
            serves = torch.tensor([[index in slices for slices in selection]], device=tokens.valid.device)
            parts.append(
                replace(
                    tokens,
                    valid=tokens.valid & serves[..., None],
                    prototype=tokens.prototype * serves[..., None],
                    organs=tokens.organs & serves,
                )
            )
        return parts[0] if len(parts) == 1 else VisualTokens.merge(parts)


def organ_masks(scribbles: np.ndarray, organs: int) -> np.ndarray:
    """Scribbles (..., H, W) uint8 as (..., K, H, W) bool, background and unlabelled left out."""
    return np.stack([scribbles == value for value in range(1, organs + 1)], axis=-3)


def reference_tokens(
    network: CrossMR,
    store: FeatureStore,
    reference: ReferredVolume,
    masks: np.ndarray,
    cancel: CancelToken,
) -> ReferenceTokens:
    """Sample the features of the reference under the scribbles.

    Args:
        network: Gives the sampler.
        store: Holds the reference's features.
        reference: Its slices.
        masks: (S, K, H, W) bool; each organ has a stroke somewhere.
        cancel: Looked at before each slice.
    """
    drawn = masks.any(axis=(2, 3))
    slices = tuple(int(index) for index in np.flatnonzero(drawn.any(axis=1)))
    tokens = []
    for index in slices:
        cancel.raise_if_cancelled()
        features = store.get(reference, [index])
        strokes = torch.from_numpy(masks[index : index + 1]).to(features.mask_features.device)
        tokens.append(network.sample(features, strokes))
    by_organ = tuple(tuple(int(index) for index in np.flatnonzero(column)) for column in drawn.T)
    return ReferenceTokens(slices, tuple(tokens), by_organ)


def slice_batches(selections: Sequence[Selection], largest: int) -> Iterator[tuple[Selection, list[int]]]:
    """Runs of neighbouring slices with one selection, at most `largest` each."""
    batch: list[int] = []
    for index, selection in enumerate(selections):
        if batch and (selection != selections[batch[0]] or len(batch) == largest):
            yield selections[batch[0]], batch
            batch = []
        batch.append(index)
    if batch:
        yield selections[batch[0]], batch
