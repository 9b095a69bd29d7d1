"""Which cases, or which scribbles, are kept for validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from CrossModalSegLib.cohort import Case, Cohort
from CrossModalSegLib.errors import CohortError
from CrossModalSegLib.labels import UNLABELLED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Cases to train on and cases to validate on."""

    training: tuple[Case, ...]
    validation: tuple[Case, ...]


def split_cases(cohort: Cohort, fold: int | None, share: float, seed: int) -> Split:
    """Choose the validation cases.

    Args:
        cohort: The cases.
        fold: Cases of this fold validate; None draws cases at random.
        share: Of the cases that can validate (those with a mask, if any has one), rounded down.
        seed: Of the draw.

    Raises:
        CohortError: No case, or every case, is of that fold.
    """
    if fold is not None:
        validation = tuple(case for case in cohort.cases if case.fold == fold)
        if not validation or len(validation) == len(cohort.cases):
            folds = sorted({str(case.fold) for case in cohort.cases})
            raise CohortError(
                f"Validation on fold {fold} needs cases inside and outside this fold, but the {len(cohort.cases)} "
                f"cases have the folds {', '.join(folds)}; give cases folds in the cohort file or choose none."
            )
        return Split(tuple(case for case in cohort.cases if case.fold != fold), validation)
    able = [case for case in cohort.cases if case.mask is not None] or list(cohort.cases)
    count = min(int(share * len(able) + 1e-9), len(cohort.cases) - 1)
    chosen = {able[n].name for n in np.random.default_rng(seed).permutation(len(able))[:count]}
    return Split(
        tuple(case for case in cohort.cases if case.name not in chosen),
        tuple(case for case in cohort.cases if case.name in chosen),
    )


def tell_if_none_validates(is_any: bool, fold: int | None, shares: Mapping[str, float]) -> None:
    """Warn where validation was asked for, but there is nothing for it.

    By a share, of cases or scribbles that are too few; or by a fold, of cases without a mask and scribbles.

    Args:
        is_any: Whether there is anything to validate on.
        fold: Asked for instead of a share.
        shares: By the names of the settings.
    """
    if is_any:
        return
    wanted = [f"{name} {share:g}" for name, share in shares.items() if share > 0]
    if fold is not None:
        logger.warning(
            "Nothing is validated on: the cases of fold %d have neither a mask nor scribbles to be compared with. The "
            "last weights will be taken, not the best ones.",
            fold,
        )
    elif wanted:
        logger.warning(
            "Nothing is held out to validate on: %s comes to none of so few cases, as it is rounded down. "
            "The last weights will be taken, not the best ones; for those, set a larger share, or name a fold.",
            " and ".join(wanted),
        )


def hold_out_scribbles(scribbles: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep whole scribbled slices out of the training, to validate on them.

    Whole slices, because the neighbours of a voxel within its own stroke say nearly the same as the voxel itself.
    Every class keeps at least one slice to train on.

    Args:
        scribbles: (k, j, i) uint8: 0 background, 1..K classes, 255 unlabelled.
        share: Of the scribbled slices along axis 0, rounded down.
        seed: Of the draw.

    Returns:
        The scribbles to train on and those held out, each as `scribbles`.
    """
    present = [set(np.unique(plane).tolist()) - {UNLABELLED} for plane in scribbles]
    slices = [k for k, classes in enumerate(present) if classes]
    remaining = {value: sum(value in classes for classes in present) for classes in present for value in classes}
    chosen: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(slices)):
        k = slices[index]
        if len(chosen) < int(share * len(slices) + 1e-9) and all(remaining[value] > 1 for value in present[k]):
            chosen.append(k)
            for value in present[k]:
                remaining[value] -= 1
    kept, held = scribbles.copy(), np.full_like(scribbles, UNLABELLED)
    held[chosen] = scribbles[chosen]
    kept[chosen] = UNLABELLED
    return kept, held


def labelled_classes(arrays: Sequence[np.ndarray]) -> set[int]:
    """The values other than 255 that occur in any of the arrays."""
    return set().union(*(np.unique(array).tolist() for array in arrays)) - {UNLABELLED}
