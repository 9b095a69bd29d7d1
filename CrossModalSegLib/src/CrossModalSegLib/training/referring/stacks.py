"""The slices of a referring training, from one or more cohorts, under one table of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from CrossModalSegLib.cohort import Case, Cohort, load_case
from CrossModalSegLib.data.cache import content_key
from CrossModalSegLib.data.referring.slices import SliceFrame, SlicePreprocessing, SliceStack, slice_stack
from CrossModalSegLib.errors import CohortError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.progress import CancelToken, Progress
from CrossModalSegLib.training.split import split_cases
from CrossModalSegLib.volume import Volume


@dataclass(frozen=True)
class Member:
    """A case and the cohort it belongs to."""

    cohort: Cohort
    case: Case


@dataclass(frozen=True)
class Members:
    """Cases to train on and cases to validate on, and the labels of all of them.

    Attributes:
        training, validation: The cases; a name may occur in more than one cohort.
        labels: Every label of any cohort, once by name, whatever its capitals.
    """

    training: tuple[Member, ...]
    validation: tuple[Member, ...]
    labels: LabelTable

    @property
    def names(self) -> dict[str, list[str]]:
        """Names of the cases."""
        return {
            "training": [member.case.name for member in self.training],
            "validation": [member.case.name for member in self.validation],
        }


def choose_members(cohorts: Sequence[Cohort], fold: int | None, share: float, seed: int) -> Members:
    """Split each cohort, and join their labels by name.

    Raises:
        CohortError: A case has no mask, or a cohort cannot be split.
    """
    missing = [case.name for cohort in cohorts for case in cohort.cases if case.mask is None]
    if missing:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CohortError(
            f"CrossMR learns from masks, but these cases have none: {names}. Add them to the cohort, or leave these "
            "cases out."
        )
    splits = [(cohort, split_cases(cohort, fold, share, seed)) for cohort in cohorts]
    names: dict[str, str] = {}  # as they were written first; capitals do not matter
    for name in (name for cohort in cohorts for name in cohort.labels.names):
        names.setdefault(name.casefold(), name)
    return Members(
        tuple(Member(cohort, case) for cohort, split in splits for case in split.training),
        tuple(Member(cohort, case) for cohort, split in splits for case in split.validation),
        LabelTable.from_names(list(names.values())),
    )


def choose_contrasts(members: Members, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The contrasts to train on, of those that the cohorts have.

    Raises:
        CohortError: A wanted one is in no cohort, or a cohort has none of them.
    """
    cohorts = {id(each.cohort): each.cohort for each in (*members.training, *members.validation)}.values()
    there = list(dict.fromkeys(name for cohort in cohorts for name in cohort.modalities))
    if wanted is None:
        return tuple(there)
    missing = [name for name in wanted if name not in there]
    without = [cohort for cohort in cohorts if not set(wanted) & set(cohort.modalities)]
    if missing or without:
        raise CohortError(
            f"The modalities to train on are {', '.join(wanted)}; the cohorts have {', '.join(there)}"
            + (f", and one of them has only {', '.join(without[0].modalities)}" if without and not missing else "")
            + ". Name modalities that each cohort has."
        )
    return tuple(wanted)


def load_stacks(
    members: Sequence[Member],
    labels: LabelTable,
    contrasts: Sequence[str],
    prep: SlicePreprocessing,
    *,
    resample: bool,
    progress: Progress,
    cancel: CancelToken,
    like: SliceFrame | None = None,
) -> tuple[SliceStack, ...]:
    """Load cases as slices, with label values of the joint table; prepared slices stay in memory.

    What a case's cohort has no label for is unknown in it, not absent. Askew slices are turned like those of `like`, or
    of the first case, as `refer` turns them: cases are references of each other.
    """
    stacks: list[SliceStack] = []
    for number, member in enumerate(members):
        cancel.raise_if_cancelled()
        loaded = load_case(member.case, member.cohort, resample)
        images = {name: loaded.images[name] for name in contrasts if name in loaded.images}
        mask = _joint_mask(loaded.mask, member.cohort.labels, labels)
        stack = slice_stack(loaded.name, images, mask, prep, like)
        like = like or stack.frame
        known = tuple(labels.label_by_name(name).value for name in member.cohort.labels.names)
        stacks.append(replace(stack, annotated=known, key=content_key([*images.items(), ("mask", mask)], prep)))
        progress(number + 1, len(members), "Preparing cases")
    return tuple(stacks)


def content_of(stacks: Sequence[SliceStack]) -> dict[str, str]:
    """Hashes of what the cases hold, by their names; cases of one name in several cohorts are told as one."""
    content: dict[str, str] = {}
    for stack in stacks:
        content[stack.name] = content.get(stack.name, "") + (stack.key or "")
    return content


def _joint_mask(mask: Volume, own: LabelTable, joint: LabelTable) -> Volume:
    """A cohort's mask with the values of the joint table."""
    lookup = np.zeros(256, np.uint8)
    lookup[1 : len(own.names) + 1] = [joint.label_by_name(name).value for name in own.names]
    return mask.with_array(lookup[mask.array])
