"""Cohorts of simulated patients on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from CrossModalSegLib.cohort import load_case, read_cohort
from CrossModalSegLib.errors import Cancelled, InputError, OutputError
from CrossModalSegLib.labels import check_scribbles
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.simulation import SimulationOptions, case_seeds, simulate_case, simulate_cohort

OPTIONS = SimulationOptions(shape=(16, 48, 48), spacing=(7.0, 4.2, 4.2))


def test_cohort_can_be_read_and_is_the_simulated_case(tmp_path: Path) -> None:
    seen = []
    file = simulate_cohort(
        tmp_path / "a cohort ü", 2, seed=3, options=OPTIONS, folds=2, progress=lambda done, *_: seen.append(done)
    )
    cohort = read_cohort(file)
    assert seen == [1, 2]
    assert [case.fold for case in cohort.cases] == [0, 1]
    loaded = load_case(cohort.cases[0], cohort)
    expected = simulate_case("head", case_seeds(3, 1)[0], OPTIONS)
    np.testing.assert_array_equal(loaded.images["mr"].array, expected.mr.array)
    np.testing.assert_array_equal(loaded.mask.array, expected.mask.array)
    check_scribbles(loaded.scribbles.array, cohort.labels)
    scribbled = loaded.scribbles.array == 1
    assert (loaded.mask.array[scribbled] == 1).all()


def test_more_cases_keep_the_first_ones() -> None:
    assert case_seeds(5, 3) == case_seeds(5, 6)[:3]
    assert len(set(case_seeds(5, 6))) == 6


def test_nothing_is_left_of_a_cancelled_cohort(tmp_path: Path) -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        simulate_cohort(tmp_path / "c", 3, options=OPTIONS, progress=lambda *_: token.cancel(), cancel=token)
    assert list(tmp_path.iterdir()) == []


def test_full_folder_and_bad_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        simulate_cohort(tmp_path, 1, options=OPTIONS)
    with pytest.raises(InputError, match="at least one case, got 0"):
        simulate_cohort(tmp_path / "d", 0)
    with pytest.raises(InputError, match="folds must be at least 1"):
        simulate_cohort(tmp_path / "d", 1, folds=0)
