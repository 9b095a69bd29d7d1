"""Training a prior, in a few tiny steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from CrossModalSegLib.cohort import Case, Cohort, write_cohort
from CrossModalSegLib.errors import Cancelled, CohortError, InputError
from CrossModalSegLib.fitting.fit_case import load_prior
from CrossModalSegLib.fitting.prior_training import PriorConfig, labelled_volumes, train_prior
from CrossModalSegLib.fitting.synthesis import SynthesisConfig
from CrossModalSegLib.inference.model_folder import read_card
from CrossModalSegLib.io import write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.volume import Volume

TINY = PriorConfig(steps=3, batch_size=1, base_channels=2, synthesis=SynthesisConfig(patch=(16, 32, 32)))


def cohort_in(folder: Path, with_mask: bool = True) -> Cohort:
    """One CT case with a bright box."""
    labels = np.zeros((16, 40, 40), np.uint8)
    labels[3:13, 8:32, 8:32] = 1
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    write_volume(Volume((labels * 100 - 40).astype(np.int16), affine), folder / "ct.nii.gz")
    write_volume(Volume(labels, affine), folder / "mask.nii.gz")
    case = Case("a", {"ct": folder / "ct.nii.gz"}, None, folder / "mask.nii.gz" if with_mask else None, None)
    cohort = Cohort(("ct",), LabelTable.from_names(["liver"]), ScribbleConvention.INTERNAL, (case,), folder)
    write_cohort(cohort, folder / "cohort.json")
    return cohort


def test_the_result_is_a_prior_with_its_provenance(tmp_path):
    folder = train_prior([cohort_in(tmp_path)], tmp_path / "prior", TINY, licence="CC BY 4.0")
    card = read_card(folder)
    assert load_prior(folder).config.base_channels == 2
    assert card.licence == "CC BY 4.0"
    assert card.provenance["cases"] == ["a"] and card.provenance["steps"] == 3
    assert not (tmp_path / "prior.checkpoints").exists()


def test_a_cancelled_training_resumes_where_it_was(tmp_path):
    cohort, cancel, steps = cohort_in(tmp_path), CancelToken(), []

    def stop_after_two(done, total, message, values):
        steps.append(values["step"])
        if values["step"] == 2:
            cancel.cancel()

    with pytest.raises(Cancelled):
        train_prior([cohort], tmp_path / "prior", TINY, progress=stop_after_two, cancel=cancel)
    assert not (tmp_path / "prior").exists()
    train_prior([cohort], tmp_path / "prior", TINY, resume=True, progress=stop_after_two)
    assert steps == [1, 2, 3]


def test_a_prior_can_start_from_another(tmp_path):
    first = train_prior([cohort_in(tmp_path)], tmp_path / "first", TINY)
    second = train_prior([cohort_in(tmp_path)], tmp_path / "second", TINY, init=first)
    assert read_card(second).provenance["init"] == first.name


def test_masks_are_needed(tmp_path):
    with pytest.raises(CohortError, match="trained on masks, but no case of the cohort has one"):
        labelled_volumes(cohort_in(tmp_path, with_mask=False))


def test_settings_are_checked():
    with pytest.raises(InputError, match="at least 1"):
        PriorConfig(steps=0)


def test_the_schedule_can_follow_the_clock():
    config = PriorConfig(minutes=2.0, learning_rate=1.0)
    assert config.share_done(10**6, 30.0) == 0.25
    assert config.share_done(0, 500.0) == 1.0
    assert config.rate(1000, 60.0) == pytest.approx(0.51)
