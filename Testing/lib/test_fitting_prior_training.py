"""Training a prior, in a few tiny steps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from CrossModalSegLib.cohort import Case, Cohort, write_cohort
from CrossModalSegLib.errors import Cancelled, CohortError, InputError, LabelError, ModelError, OutputError
from CrossModalSegLib.fitting import prior_training
from CrossModalSegLib.fitting.fit_case import load_prior
from CrossModalSegLib.fitting.prior_training import PriorConfig, train_prior
from CrossModalSegLib.fitting.synthesis import SynthesisConfig
from CrossModalSegLib.inference.model_folder import read_card
from CrossModalSegLib.io import read_volume, write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.training.ema import WeightAverage
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


def cpu(cohort, out, config=TINY, **options):
    return train_prior([cohort], out, config, accelerator="cpu", **options)


def stop_at(step, error):
    def progress(done, _total, message="", _values=None):
        if message == "Training" and done == step:
            raise error

    return progress


def test_the_result_is_a_prior_with_its_provenance(tmp_path):
    folder = cpu(cohort_in(tmp_path), tmp_path / "prior", licence="CC BY 4.0")
    card = read_card(folder)
    assert load_prior(folder).config.base_channels == 2
    assert card.licence == "CC BY 4.0"
    assert card.provenance["cases"] == ["a"] and card.provenance["steps"] == 3
    assert not (tmp_path / "prior.training").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_and_resumed_training_gives_the_weights_of_an_uninterrupted_one(tmp_path, workers):
    cohort, steps = cohort_in(tmp_path), []
    whole = cpu(cohort, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort, tmp_path / "parts", progress=stop_at(2, KeyboardInterrupt()))
    assert not (tmp_path / "parts").exists()
    note = lambda done, _total, _message, _values: steps.append(done)  # noqa: E731
    parts = cpu(cohort, tmp_path / "parts", resume=True, workers=workers, progress=note)
    assert steps == [3]
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()


def test_another_seed_gives_other_weights_and_leaves_the_callers_generators(tmp_path):
    cohort = cohort_in(tmp_path)
    torch.manual_seed(1)
    first = cpu(cohort, tmp_path / "first")
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    other = cpu(cohort, tmp_path / "other", replace(TINY, seed=1))
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_a_stopped_training_is_neither_overwritten_nor_resumed_with_other_settings_or_data(tmp_path):
    cohort, out = cohort_in(tmp_path), tmp_path / "prior"
    with pytest.raises(Cancelled):
        cpu(cohort, out, progress=stop_at(2, Cancelled("enough")))
    with pytest.raises(OutputError, match="resume it, or delete"):
        cpu(cohort, out)
    with pytest.raises(InputError, match="config.base_channels was 2 and is now 4"):
        cpu(cohort, out, replace(TINY, base_channels=4), resume=True)
    path = cohort.cases[0].mask
    mask = read_volume(path)
    mask.array[3, 8, 8] = 0
    write_volume(mask, path)
    with pytest.raises(InputError, match="masks of a changed since"):
        cpu(cohort, out, resume=True)
    assert [each.name for each in (tmp_path / "prior.training" / "checkpoints").iterdir()] == ["step-00000002"]


def test_an_interruption_within_a_step_writes_no_checkpoint(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(WeightAverage, "update", interrupted)  # the optimiser's step is done by then
    with pytest.raises(KeyboardInterrupt):
        cpu(cohort_in(tmp_path), tmp_path / "prior")
    assert not list(tmp_path.glob("prior*"))


def test_a_prior_that_diverges_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="diverged"):
        cpu(cohort_in(tmp_path), tmp_path / "prior", replace(TINY, learning_rate=1e30, steps=8))
    assert not list(tmp_path.glob("prior*"))


def test_a_prior_can_start_from_another(tmp_path):
    first = cpu(cohort_in(tmp_path), tmp_path / "first")
    second = cpu(cohort_in(tmp_path), tmp_path / "second", init=first)
    assert read_card(second).provenance["init"] == first.name


def test_a_prior_to_start_from_that_is_missing_is_told_before_cases_are_loaded(tmp_path, monkeypatch):
    cohort = cohort_in(tmp_path)
    monkeypatch.setattr(prior_training, "load_case", lambda *_args: pytest.fail("this may take long"))
    with pytest.raises(ModelError, match="no model folder 'missing'"):
        cpu(cohort, tmp_path / "prior", init="missing")


def test_masks_are_needed(tmp_path):
    with pytest.raises(CohortError, match="trained on masks, but no case of the cohort has one"):
        cpu(cohort_in(tmp_path, with_mask=False), tmp_path / "prior")


def test_an_empty_mask_is_refused_since_no_sample_could_ever_be_drawn_there(tmp_path):
    cohort = cohort_in(tmp_path)
    mask = read_volume(cohort.cases[0].mask)
    write_volume(mask.with_array(np.zeros_like(mask.array)), cohort.cases[0].mask)
    with pytest.raises(LabelError, match="The mask of the case a is empty"):
        cpu(cohort, tmp_path / "prior")
    assert not list(tmp_path.glob("prior*"))


def test_settings_are_checked():
    with pytest.raises(InputError, match="at least 1"):
        PriorConfig(steps=0)
    for rate in (0.0, math.nan, math.inf):
        with pytest.raises(InputError, match="the learning rate more than 0 and finite"):
            PriorConfig(learning_rate=rate)
    with pytest.raises(InputError, match="more than 0 minutes, got 0"):
        PriorConfig(minutes=0)


def test_the_schedule_can_follow_the_clock():
    config = PriorConfig(minutes=2.0, learning_rate=1.0)
    assert config.share_done(10**6, 30.0) == 0.25
    assert config.share_done(0, 500.0) == 1.0
    assert config.rate(1000, 60.0) == pytest.approx(0.51)
