from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from CrossModalSegLib.cohort import Case, Cohort
from CrossModalSegLib.errors import CohortError
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.training.split import hold_out_scribbles, split_cases, tell_if_none_validates


def cohort(count, masked=lambda _: True, fold=lambda _: None):
    cases = tuple(
        Case(f"c{n}", {"ct": Path("a")}, Path("s"), Path("m") if masked(n) else None, fold(n)) for n in range(count)
    )
    return Cohort(("ct",), LabelTable.from_names(["a"]), ScribbleConvention(255, 0), cases, Path())


def names(cases):
    return [case.name for case in cases]


def test_a_fold_validates():
    split = split_cases(cohort(5, fold=lambda n: n % 2), 1, 0.9, 0)
    assert names(split.validation) == ["c1", "c3"] and names(split.training) == ["c0", "c2", "c4"]


def test_a_fold_needs_cases_on_both_sides():
    with pytest.raises(CohortError, match=r"fold 3 .* have the folds None"):
        split_cases(cohort(2), 3, 0.2, 0)
    with pytest.raises(CohortError, match="inside and outside"):
        split_cases(cohort(2, fold=lambda _: 0), 0, 0.2, 0)


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (4, 0), (5, 1), (10, 2)])
def test_the_share_is_rounded_down(count, expected):
    split = split_cases(cohort(count), None, 0.2, 0)
    assert len(split.validation) == expected and len(split.training) == count - expected


def test_cases_with_masks_validate_first():
    split = split_cases(cohort(8, masked=lambda n: n >= 4), None, 0.5, 3)
    assert len(split.validation) == 2 and all(case.mask is not None for case in split.validation)


def test_one_case_at_least_is_trained_on():
    assert len(split_cases(cohort(3), None, 1.0, 0).training) == 1


def test_the_seed_decides():
    splits = [names(split_cases(cohort(20), None, 0.3, seed).validation) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_whole_slices_are_held_out():
    scribbles = np.full((6, 4, 4), 255, np.uint8)
    scribbles[:, 0, 0], scribbles[:, 1, 1] = 0, 1
    kept, held = hold_out_scribbles(scribbles, 0.5, 0)
    is_held = (held != 255).any((1, 2))
    assert is_held.sum() == 3
    np.testing.assert_array_equal(held[is_held], scribbles[is_held])
    np.testing.assert_array_equal(kept[~is_held], scribbles[~is_held])
    assert (kept[is_held] == 255).all() and (held[~is_held] == 255).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_no_class_loses_its_last_slice_and_no_label_is_lost(seed, share):
    rng = np.random.default_rng(seed)
    scribbles = np.where(rng.random((5, 3, 3)) < 0.1, rng.integers(0, 4, (5, 3, 3)), 255).astype(np.uint8)
    kept, held = hold_out_scribbles(scribbles, share, seed)
    assert set(np.unique(kept)) | {255} == set(np.unique(scribbles)) | {255}
    np.testing.assert_array_equal(np.minimum(kept, held), scribbles)
    assert ((kept == 255) | (held == 255)).all()


@pytest.mark.parametrize(
    ("is_any", "fold", "share", "is_told"),
    [(False, None, 0.1, True), (True, None, 0.1, False), (False, None, 0.0, False), (False, 1, 0.1, False)],
)
def test_a_share_that_holds_nothing_out_is_told(caplog, is_any, fold, share, is_told):
    tell_if_none_validates(is_any, fold, {"validation_share": share})
    assert ("validation_share 0.1 comes to none" in caplog.text) == is_told


def test_a_fold_that_cannot_validate_is_told(caplog):
    tell_if_none_validates(True, 1, {"validation_share": 0.2})
    assert not caplog.records
    tell_if_none_validates(False, 1, {"validation_share": 0.2})
    assert "the cases of fold 1 have neither a mask nor scribbles" in caplog.text
