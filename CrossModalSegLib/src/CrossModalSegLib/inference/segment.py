"""A trained model applied to a case: labels, and on request probabilities and uncertainty, on the case's own grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from CrossModalSegLib.data.preprocess import (
    PreparedCase,
    prepare_case,
    restore_probabilities,
    to_source_grid,
)
from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.inference.model_card import check_segments
from CrossModalSegLib.inference.model_folder import LoadedModel, check_inputs
from CrossModalSegLib.inference.predictor import Precision, Shape3, Slab, predict, predict_slabs
from CrossModalSegLib.inference.uncertainty import normalized_entropy
from CrossModalSegLib.models.cmfnet import CmFNet, ModalityBranch
from CrossModalSegLib.progress import CancelToken, Progress
from CrossModalSegLib.volume import Volume

if TYPE_CHECKING:
    from CrossModalSegLib.cohort import LoadedCase


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """What a segmentation gives, on the case's own grid.

    Attributes:
        labels: uint8, 0 background and 1..K.
        probabilities: (K + 1, k, j, i) float32, or None.
        uncertainty: float32 entropy over ln(K + 1), 0 to 1, or None.
    """

    labels: Volume
    probabilities: np.ndarray | None = None
    uncertainty: Volume | None = None


def by_branch(model: LoadedModel, modality: Literal["ct", "mr"]) -> LoadedModel:
    """A CmFNet that answers by its CT or its MR branch instead of the cross-modal one.

    Raises:
        ModelError: The model is of another network.
    """
    if not isinstance(model.network, CmFNet):
        raise ModelError(
            f"The model {model.card.name} is of the network {model.card.architecture}, which has no branch for each "
            "modality as cmfnet has; let it answer as a whole."
        )
    return replace(model, network=ModalityBranch(model.network, modality).eval())


def segment_case(
    model: LoadedModel,
    loaded: LoadedCase,
    *,
    probabilities: bool = False,
    uncertainty: bool = False,
    patch: Shape3 | None = None,
    overlap: float = 0.25,
    precision: Precision = "bf16",
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> SegmentationResult:
    """Segment a case.

    Args:
        model: From `load_model`.
        loaded: The case; its images must be those of the model.
        probabilities: Whether to return the probabilities of all classes.
        uncertainty: Whether to return the normalised entropy.
        patch, overlap, precision, progress, cancel: As in `predict`.

    Raises:
        ModelError: The model needs more than images, or the case lacks one of them.
        CrossModalSegError: Even the smallest window does not fit into memory.
        Cancelled: The cancel token was set.
    """
    check_segments(model.card)
    check_inputs(model.card, loaded)
    prepared = prepare_case(loaded, model.card.preprocessing, modalities=model.card.modalities)
    options = {
        "patch": patch,
        "overlap": overlap,
        "precision": precision,
        "progress": progress,
        "cancel": cancel,
    }
    if prepared.is_on_source_voxels and not probabilities:
        return _from_slabs(prepared, predict_slabs(model.network, prepared.images, **options), uncertainty)
    return labels_from_probabilities(
        predict(model.network, prepared.images, **options), prepared, probabilities, uncertainty
    )


def labels_from_probabilities(
    prob: np.ndarray, prepared: PreparedCase, probabilities: bool = False, uncertainty: bool = False
) -> SegmentationResult:
    """The most probable class on the case's own grid.

    Args:
        prob: (K + 1, k, j, i) float32 on the working grid; brought to the source grid before the choice.
        prepared: The case the probabilities belong to.
        probabilities: Whether the result holds the probabilities.
        uncertainty: Whether the result holds the normalised entropy.
    """
    if probabilities or uncertainty:
        restored = restore_probabilities(prob, prepared)
        labels = restored.argmax(axis=0).astype(np.uint8)
        return SegmentationResult(
            labels=Volume(labels, prepared.source.affine),
            probabilities=restored if probabilities else None,
            uncertainty=Volume(normalized_entropy(restored), prepared.source.affine) if uncertainty else None,
        )
    return SegmentationResult(Volume(_best_class(prob, prepared), prepared.source.affine))


def _best_class(prob: np.ndarray, prepared: PreparedCase) -> np.ndarray:
    """One class after the other, so that only two volumes of the source grid are in memory."""
    best = np.array(to_source_grid(prob[0], prepared, "linear"), np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for value in range(1, prob.shape[0]):
        candidate = to_source_grid(prob[value], prepared, "linear")
        is_better = candidate > best
        labels[is_better] = value
        np.copyto(best, candidate, where=is_better)
    return labels


def _from_slabs(prepared: PreparedCase, slabs: Iterator[Slab], uncertainty: bool) -> SegmentationResult:
    """Labels without ever holding the probabilities of the whole volume."""
    labels = np.empty(prepared.shape, np.uint8)
    entropy = np.empty(prepared.shape, np.float32) if uncertainty else None
    for slab in slabs:
        block = slab.probabilities.numpy()
        labels[slab.start : slab.stop] = slab.probabilities.argmax(dim=0).numpy()
        if entropy is not None:
            entropy[slab.start : slab.stop] = normalized_entropy(block)
        del slab, block
    return SegmentationResult(
        labels=_on_source(labels, prepared),
        uncertainty=None if entropy is None else _on_source(entropy, prepared),
    )


def _on_source(array: np.ndarray, prepared: PreparedCase) -> Volume:
    restored = np.ascontiguousarray(to_source_grid(array, prepared, "nearest"))
    return Volume(restored, prepared.source.affine)
