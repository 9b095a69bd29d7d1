"""The cases of a training, loaded, checked and prepared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from CrossModalSegLib.cohort import Case, Cohort, load_case
from CrossModalSegLib.data.intensity import is_ct
from CrossModalSegLib.data.preprocess import PreparedCase, Preprocessing, prepare_case
from CrossModalSegLib.errors import CohortError, LabelError
from CrossModalSegLib.labels import BACKGROUND, UNLABELLED
from CrossModalSegLib.progress import CancelToken, Progress, SilentProgress
from CrossModalSegLib.training.split import hold_out_scribbles, labelled_classes

Target = Literal["scribbles", "mask"]
ValidationKind = Literal["masks", "scribbles", "held-out scribbles", "none"]


@dataclass(frozen=True, eq=False)
class TrainingCases:
    """What a training works on.

    Attributes:
        training: Cases to draw patches from.
        validation: Cases to predict, each with its reference: (k, j, i) uint8, 255 where it says nothing.
        kind: What the references are.
    """

    training: tuple[PreparedCase, ...]
    validation: tuple[tuple[PreparedCase, np.ndarray], ...]
    kind: ValidationKind


def check_annotations(cases: Sequence[Case], target: Target, method: str) -> None:
    """Refuse cases that lack what a method learns from, before anything is loaded.

    Raises:
        CohortError: Cases have no scribbles, or no mask.
    """
    missing = [case.name for case in cases if (case.scribbles if target == "scribbles" else case.mask) is None]
    if not missing:
        return
    names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    if target == "mask":
        raise CohortError(
            f"The method {method} learns from masks, but these cases have none: {names}. Add them to the cohort, "
            "leave these cases out, or choose a method that learns from scribbles."
        )
    raise CohortError(
        f"The method {method} learns from scribbles, but these cases have none: {names}. Add them to the cohort, "
        'draw them from masks with "crossmodalseg scribble", or leave these cases out.'
    )


def branch_order(modalities: Iterable[str]) -> tuple[str, ...]:
    """CT before the others, whatever the order of a cohort or case: networks with a branch for each expect it first."""
    return tuple(sorted(modalities, key=lambda name: not is_ct(name)))


def prepare_cases(
    cohort: Cohort,
    cases: Sequence[Case],
    prep: Preprocessing,
    *,
    cache_dir: Path | None,
    resample: bool = False,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> tuple[PreparedCase, ...]:
    """Load cases and bring them to the working grid, from the cache where it has them; images in `branch_order`."""
    progress = progress or SilentProgress()
    modalities = branch_order(cohort.modalities)
    prepared = []
    for number, case in enumerate(cases):
        if cancel is not None:
            cancel.raise_if_cancelled()
        loaded = load_case(case, cohort, resample)
        prepared.append(prepare_case(loaded, prep, modalities=modalities, cache_dir=cache_dir))
        progress(number + 1, len(cases), "Preparing cases")
    return tuple(prepared)


def arrange_cases(
    training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    *,
    target: Target,
    class_names: Sequence[str],
    scribble_share: float,
    seed: int,
) -> TrainingCases:
    """Check the labels and choose the references of the validation.

    Masks of validation cases come first, then their scribbles; without validation cases, a share of the scribbled
    slices of the training cases is held out.

    Args:
        training: Cases to learn from.
        validation: Cases kept apart; may be none.
        target: What is learned from.
        class_names: K names.
        scribble_share: Of the scribbled slices to hold out without validation cases.
        seed: Of the choice of slices.

    Raises:
        LabelError: A case has no labelled voxel, or the training cases together lack a class or the background.
    """
    _check_labels(training, target, class_names)
    with_masks = [case for case in validation if case.mask is not None]
    if with_masks:
        return TrainingCases(tuple(training), tuple((case, case.mask) for case in with_masks), "masks")
    with_scribbles = [case for case in validation if case.scribbles is not None]
    if with_scribbles:
        return TrainingCases(tuple(training), tuple((case, case.scribbles) for case in with_scribbles), "scribbles")
    if target == "scribbles" and scribble_share > 0:
        return _hold_out(training, scribble_share, seed)
    return TrainingCases(tuple(training), (), "none")


def _hold_out(training: Sequence[PreparedCase], share: float, seed: int) -> TrainingCases:
    kept_cases, references = [], []
    for case in training:
        kept, held = hold_out_scribbles(case.scribbles, share, seed)
        kept_cases.append(replace(case, scribbles=kept))
        if (held != UNLABELLED).any():
            references.append((case, held))
    return TrainingCases(tuple(kept_cases), tuple(references), "held-out scribbles" if references else "none")


def _check_labels(training: Sequence[PreparedCase], target: Target, class_names: Sequence[str]) -> None:
    arrays = [case.scribbles if target == "scribbles" else case.mask for case in training]
    for case, array in zip(training, arrays, strict=True):
        if not labelled_classes([array]):
            raise LabelError(
                f"The {target} of the case {case.name} hold no labelled voxel; paint some or leave it out."
            )
    present = labelled_classes(arrays)
    missing = [name for value, name in enumerate(("background", *class_names)) if value not in present]
    if missing and BACKGROUND not in present and target == "scribbles":
        raise LabelError(
            "The training scribbles hold no background: a network would learn to paint everything. Scribble some "
            f"background{_and_classes(missing[1:])}, or declare the value it has in the scribble convention."
        )
    if missing:
        raise LabelError(
            f"No training case holds {target} of: {', '.join(missing)}. Paint them in a case, or take them out of the "
            "labels."
        )


def _and_classes(names: Sequence[str]) -> str:
    return f" and {', '.join(names)}" if names else ""
