"""Fitting a small case: what comes back, on which grid, and what stops it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.errors import Cancelled, InputError, LabelError, ModelError
from CrossModalSegLib.fitting.fit_case import FitConfig, _tuner, fit_case, load_prior
from CrossModalSegLib.fitting.judge import split_scribbles
from CrossModalSegLib.fitting.prior_training import PriorConfig, prior_network
from CrossModalSegLib.fitting.search import FIRST_ANSWER, TUNING_STEPS, Search, SearchLimits
from CrossModalSegLib.fitting.synthesis import LESION, LabelledVolume, SynthesisConfig, synthesise
from CrossModalSegLib.fitting.tuning import PromptedTuner, PromptedTuning, ScratchTuner, ScratchTuning
from CrossModalSegLib.fitting.working_case import working_case
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import load_model, save_model
from CrossModalSegLib.inference.segment import segment_case
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.losses.hybrid import hybrid_loss
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig
from CrossModalSegLib.progress import CancelToken, SilentProgress
from CrossModalSegLib.volume import Volume, same_geometry

TABLE = LabelTable.from_names(["liver", "spleen"])
OBLIQUE = np.array([[0.0, -1.8, 0.6, 10.0], [1.9, 0.0, 0.3, -20.0], [0.1, 0.5, 3.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
QUICK = {
    "seconds": 0.2,
    "preview_every": 0.1,
    "base_channels": 2,
    "tuning": PromptedTuning(patch=(16, 32, 32)),
    "scratch": ScratchTuning(patch=(16, 32, 32), batch_size=1, augmentation="none"),
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained prompted network."""
    torch.manual_seed(0)
    config = prior_network(base_channels=2)
    return save_prior(tmp_path_factory.mktemp("prior") / "model", config)


def save_prior(folder: Path, config: CmFNetConfig) -> Path:
    card = ModelCard("prior", "cmfnet", vars(config), ("ct", "mr"), LabelTable.from_names(["structure"]))
    return save_model(folder, CmFNet(config), card)


def loaded_case(modalities: tuple[str, ...] = ("ct", "mr")) -> LoadedCase:
    """Two bright cubes with a stroke each on five slices of an oblique, anisotropic grid."""
    image = np.random.default_rng(0).normal(0, 20, (12, 40, 44)).astype(np.int16)
    scribbles = np.full(image.shape, UNLABELLED, np.uint8)
    for value, start in ((1, 6), (2, 24)):
        image[2:10, 10:30, start : start + 14] += 100 * value
        scribbles[2:10:2, 18, start + 4 : start + 10] = value
    scribbles[2:10:2, 34, 5:40] = 0
    grid = Volume(image, OBLIQUE)
    return LoadedCase("case", dict.fromkeys(modalities, grid), grid.with_array(scribbles), None)


@pytest.mark.parametrize("method", ["cmfnet", "scratch", "pce"])
def test_every_method_answers_on_the_grid_and_honours_the_scribbles(method, prior):
    loaded = loaded_case()
    result = fit_case(loaded, TABLE, FitConfig(method, **QUICK), prior=prior, probabilities=True, uncertainty=True)
    drawn = loaded.scribbles.array != UNLABELLED
    assert same_geometry(result.labels, loaded.scribbles) and result.labels.array.dtype == np.uint8
    assert np.array_equal(result.labels.array[drawn], loaded.scribbles.array[drawn])
    assert result.probabilities.shape == (3, 12, 40, 44)
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-5)
    assert result.uncertainty.array.min() >= 0 and result.uncertainty.array.max() <= 1
    assert len(result.history) >= 1 and np.isfinite(result.history[-1]["total"])


def test_the_first_answer_comes_before_any_step(prior):
    shown = []
    config = FitConfig(**{**QUICK, "seconds": 0.0})
    result = fit_case(loaded_case(), TABLE, config, prior=prior, on_preview=lambda labels, stage: shown.append(stage))
    assert shown[0].name == FIRST_ANSWER
    assert result.history == []
    assert result.stages[0].is_best


def test_a_single_image_is_enough(prior):
    result = fit_case(loaded_case(("mr",)), TABLE, FitConfig(**QUICK), prior=prior)
    assert same_geometry(result.labels, loaded_case().scribbles)


def test_the_same_seed_gives_the_same_answer(prior):
    config = FitConfig(**{**QUICK, "seconds": 0.0})
    first, second = (fit_case(loaded_case(), TABLE, config, prior=prior).labels.array for _ in range(2))
    assert np.array_equal(first, second)


def test_the_scribbles_and_images_are_not_changed(prior):
    loaded = loaded_case()
    before = loaded.scribbles.array.copy(), loaded.images["ct"].array.copy()
    fit_case(loaded, TABLE, FitConfig(**QUICK), prior=prior)
    assert np.array_equal(loaded.scribbles.array, before[0]) and np.array_equal(loaded.images["ct"].array, before[1])


@pytest.mark.parametrize("method", ["cmfnet", "scratch"])
def test_finishing_gives_the_best_answer(method, prior):
    finish = CancelToken()
    config = FitConfig(method, **{**QUICK, "seconds": 600.0})
    result = fit_case(
        loaded_case(), TABLE, config, prior=prior, finish=finish, on_preview=lambda labels, stage: finish.cancel()
    )
    assert len(result.stages) == 1 and result.labels.shape == (12, 40, 44)


@pytest.mark.parametrize(("method", "answer"), [("cmfnet", FIRST_ANSWER), ("pce", "step 0")])
def test_finishing_before_the_first_answer_gives_it(method, answer, prior):
    finish = CancelToken()
    finish.cancel()
    result = fit_case(
        loaded_case(), TABLE, FitConfig(method, **{**QUICK, "seconds": 600.0}), prior=prior, finish=finish
    )
    assert [stage.name for stage in result.stages] == [answer]


def test_cancelling_in_mid_run_gives_nothing(prior):
    cancel = CancelToken()
    config = FitConfig(**{**QUICK, "seconds": 600.0})
    with pytest.raises(Cancelled):
        fit_case(
            loaded_case(), TABLE, config, prior=prior, cancel=cancel, on_preview=lambda labels, stage: cancel.cancel()
        )


def test_a_pause_takes_no_time_of_the_fit(prior):
    """A token whose clock stands still gives as many steps as are asked for."""

    class Frozen(CancelToken):
        def clock(self) -> float:
            return 0.0

    finish, steps = CancelToken(), []

    def progress(done: int, total: int, message: str = "", values: object = None) -> None:
        steps.append(done)
        if len(steps) == 3:
            finish.cancel()

    config = FitConfig(**{**QUICK, "seconds": 0.001})
    fit_case(loaded_case(), TABLE, config, prior=prior, cancel=Frozen(), finish=finish, progress=progress)
    assert steps == [0, 0, 0]


def test_cancelling_before_the_first_answer_ends_in_cancelled(prior):
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        fit_case(loaded_case(), TABLE, FitConfig(**QUICK), prior=prior, cancel=cancel)


def test_bad_input_is_told_in_a_sentence(prior, tmp_path):
    loaded = loaded_case()
    without = LoadedCase("case", loaded.images, None, None)
    with pytest.raises(InputError, match="has no scribbles to fit"):
        fit_case(without, TABLE, prior=prior)
    three = LabelTable.from_names(["liver", "spleen", "stomach"])
    with pytest.raises(LabelError, match="no scribble of stomach"):
        fit_case(loaded, three, prior=prior)
    too_many = LoadedCase("case", dict.fromkeys("abc", loaded.images["ct"]), loaded.scribbles, None)
    with pytest.raises(InputError, match="one image, or CT and MR"):
        fit_case(too_many, TABLE, prior=prior)
    plain = save_prior(tmp_path / "plain", CmFNetConfig(base_channels=2))
    with pytest.raises(ModelError, match="does not read scribbles as prompts"):
        load_prior(plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "magic"}, "fit method"), ({"seconds": -1}, "seconds"), ({"held_out": 1.0}, "held-out share")],
)
def test_settings_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        FitConfig(**options)


def test_strokes_that_fall_onto_one_voxel_are_told_apart_from_missing_ones(prior):
    """Classes of one voxel of 0.1 mm side by side; the fit works at 0.9 mm."""
    scribbles = np.full((3, 600, 600), 255, np.uint8)
    scribbles[1, 300, 300:302] = 1, 2
    scribbles[1, 100, 100], scribbles[1, 500, 500] = 0, 1
    grid = Volume(np.random.default_rng(0).normal(size=scribbles.shape), np.diag([0.1, 0.1, 3.0, 1.0]))
    case = LoadedCase("case", {"mr": grid}, grid.with_array(scribbles), None)
    with pytest.raises(LabelError, match=r"voxels of 3 × 0\.\d+ × 0\.\d+ mm, .*onto one another.*no scribble of b"):
        fit_case(case, LabelTable.from_names(["a", "b"]), FitConfig(seconds=0), prior=prior)


def test_samples_follow_the_seed_and_hold_what_they_promise():
    labels = np.zeros((20, 60, 60), np.uint8)
    labels[4:16, 10:40, 10:30], labels[4:16, 20:50, 34:54] = 1, 2
    image = np.where(labels > 0, 0.6, 0.3).astype(np.float32)
    volume = LabelledVolume(image, labels, (3.0, 1.5, 1.5))
    config = SynthesisConfig(patch=(16, 32, 32))
    samples = [synthesise([volume], config, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(samples[0].inputs, samples[1].inputs)
    assert not np.array_equal(samples[0].inputs, samples[2].inputs)
    for sample in samples:
        assert sample.inputs.shape == (6, 16, 32, 32) and sample.inputs.dtype == np.float32
        assert sample.inputs.min() >= 0 and sample.inputs.max() <= 1
        assert sample.target.any() and (sample.target[sample.scribbles == 1] == 1).all()
        assert (sample.target[sample.scribbles == 0] == 0).all()


def test_every_target_can_be_a_drawn_lesion():
    labels = np.zeros((20, 60, 60), np.uint8)
    labels[4:16, 10:50, 10:50] = 1
    volume = LabelledVolume(np.full(labels.shape, 0.5, np.float32), labels, (3.0, 1.5, 1.5))
    config = SynthesisConfig(patch=(16, 32, 32), lesion_probability=1.0)
    sample = synthesise([volume], config, np.random.default_rng(0))
    assert LESION not in np.unique(labels) and 0 < sample.target.mean() < 0.6


def test_the_learning_rate_rises_and_falls():
    config = PriorConfig(steps=1000, learning_rate=1.0)
    assert config.rate(0) == pytest.approx(0.01)
    assert config.rate(500) == pytest.approx(0.51)
    assert config.rate(1000) == pytest.approx(0.02)


def test_a_fit_continues_from_the_model_of_an_earlier_fit(prior, tmp_path):
    first = fit_case(loaded_case(), TABLE, FitConfig(**QUICK), prior=prior)
    folder = save_model(tmp_path / "model", first.network, first.card)
    again = fit_case(loaded_case(), TABLE, FitConfig(**{**QUICK, "seconds": 0.0}), prior=folder)
    assert np.array_equal(again.labels.array.shape, first.labels.array.shape)


@pytest.mark.parametrize("method", ["cmfnet", "scratch", "pce"])
def test_a_fit_goes_on_where_an_earlier_one_ended(method, prior):
    first = fit_case(loaded_case(), TABLE, FitConfig(method, **QUICK), prior=prior)
    finish = CancelToken()
    finish.cancel()
    weights = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    config = FitConfig(method, **QUICK)
    again = fit_case(loaded_case(), TABLE, config, prior=prior, start=first.network, finish=finish)
    assert again.stages[0].name == FIRST_ANSWER
    assert np.array_equal(again.labels.array, first.labels.array)
    for name, tensor in again.network.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])


def test_going_on_keeps_the_prior_and_finds_the_tuned_weights(prior):
    case = working_case(loaded_case()).prepared
    config = PromptedTuning(patch=(16, 32, 32), kept_prior=0.75)
    loss = lambda *arguments: None  # noqa: E731

    def tuner(start: torch.nn.Module | None) -> PromptedTuner:
        return PromptedTuner(
            load_prior(prior), case, case.scribbles, 3, loss, config, 0, torch.device("cpu"), start=start
        )

    first = tuner(None)
    with torch.no_grad():
        for parameter in first._tuned.parameters():
            parameter += 1.0
    first._interpolate()
    second = tuner(first.network)
    second._interpolate()
    for name, tensor in second._tuned.state_dict().items():
        torch.testing.assert_close(tensor, first._tuned.state_dict()[name])
    for name, tensor in second.network.state_dict().items():
        torch.testing.assert_close(tensor, first.network.state_dict()[name])


def test_a_fit_does_not_go_on_from_another_network(prior):
    other = fit_case(loaded_case(), TABLE, FitConfig("pce", **QUICK)).network
    with pytest.raises(ModelError, match="has another network"):
        fit_case(loaded_case(), TABLE, FitConfig("scratch", **QUICK), start=other)


def test_a_network_from_scratch_segments_without_scribbles(tmp_path):
    loaded = loaded_case()
    fitted = fit_case(loaded, TABLE, FitConfig("pce", **QUICK))
    model = load_model(save_model(tmp_path / "model", fitted.network, fitted.card))
    unscribbled = LoadedCase("new", loaded.images, None, None)
    assert same_geometry(segment_case(model, unscribbled).labels, loaded.scribbles)


def test_a_network_from_scratch_names_its_images_ct_first():
    fitted = fit_case(loaded_case(("mr", "ct")), TABLE, FitConfig("scratch", **QUICK))
    assert fitted.card.modalities == ("ct", "mr")


class FailingTuner:
    """A network whose second step ends in an error."""

    answers_at_once = can_forget = True

    def __init__(self, error: Exception, sizes: int = 1) -> None:
        self.network, self._error, self._steps, self._sizes = torch.nn.Linear(1, 1), error, 0, sizes

    def step(self) -> dict[str, float]:
        self._steps += 1
        if self._steps == 2:
            raise self._error
        return {"total": 1.0}

    def shrink(self) -> bool:
        self._sizes -= 1
        return self._sizes > 0

    def predict(self, shown: np.ndarray, cancel: CancelToken | None = None) -> np.ndarray:
        return np.full((3, *shown.shape), 1 / 3, np.float32)


@pytest.mark.parametrize(
    "error", [FloatingPointError("the loss is no longer a finite number"), RuntimeError("CUDA out of memory.")]
)
def test_an_error_in_a_step_keeps_the_answer_so_far(error, caplog):
    working = working_case(loaded_case())
    judge = split_scribbles(working.prepared.scribbles, 0.2, np.random.default_rng(0))
    limits = SearchLimits(60.0, 60.0, 0)
    search = Search(working, judge, FailingTuner(error), limits, SilentProgress(), CancelToken(), None)
    assert search.run().shape == (3, *working.prepared.shape)
    assert "the best answer so far is kept" in caplog.text


def test_where_memory_runs_out_steps_become_smaller(caplog):
    working = working_case(loaded_case())
    judge = split_scribbles(working.prepared.scribbles, 0.0, np.random.default_rng(0))
    limits = SearchLimits(60.0, 60.0, 0)
    tuner = FailingTuner(MemoryError(), sizes=2)
    search = Search(working, judge, tuner, limits, SilentProgress(), CancelToken(), None)
    search.run()
    assert len(search.history) == TUNING_STEPS
    assert "goes on with smaller patches" in caplog.text


def test_patches_can_be_halved_until_they_are_small(prior):
    case = working_case(loaded_case()).prepared
    device = torch.device("cpu")
    config = PromptedTuning(patch=(32, 96, 80))
    prompted = PromptedTuner(load_prior(prior), case, case.scribbles, 3, lambda *each: None, config, 0, device)
    patches = []
    while prompted.shrink():
        patches.append(prompted._config.patch)
    assert patches == [(32, 48, 80), (32, 48, 32), (16, 48, 32)]
    wide = replace(case, images=np.tile(case.images, (1, 1, 2, 1)), scribbles=np.tile(case.scribbles, (1, 2, 1)))
    scratch = ScratchTuner(torch.nn.Linear(1, 1), wide, lambda *each: None, ScratchTuning((16, 64, 32)), 0, device)
    shrunk = []
    while scratch.shrink():
        shrunk.append((scratch._batch_size, scratch._sampler.size))
    assert shrunk == [(1, (16, 64, 32)), (1, (16, 32, 32))]


def test_padding_of_a_small_case_is_neither_large_nor_regularised(monkeypatch):
    working = working_case(loaded_case())
    assert working.prepared.shape == (12, 40, 44)
    calls = []

    def spy(logits, images, *rest, inside=None):
        calls.append((tuple(images.shape[2:]), int(inside.sum())))
        return hybrid_loss(logits, images, *rest, inside=inside)

    monkeypatch.setattr("CrossModalSegLib.fitting.fit_case.hybrid_loss", spy)
    config = FitConfig("scratch", base_channels=2, scratch=ScratchTuning(batch_size=1, augmentation="none"))
    _tuner(config, working, working.prepared.scribbles, 3, "", None, torch.device("cpu")).step()
    assert calls == [((16, 48, 48), 12 * 40 * 44)]


def test_other_errors_are_not_hidden():
    working = working_case(loaded_case())
    judge = split_scribbles(working.prepared.scribbles, 0.2, np.random.default_rng(0))
    tuner = FailingTuner(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        Search(working, judge, tuner, SearchLimits(60.0, 60.0, 0), SilentProgress(), CancelToken(), None).run()


def test_intensities_are_scaled_as_in_the_whole_image():
    loaded = loaded_case(("mr",))
    bright = loaded.images["mr"].array.copy()
    bright[:, :5, :5] = 30_000  # far from the scribbles, and more than the last half percent
    image = loaded.images["mr"].with_array(bright)
    working = working_case(LoadedCase("case", {"mr": image}, loaded.scribbles, None))
    assert working.prepared.images.mean() < 0.1


def test_a_small_structure_in_a_large_image_is_worked_on_at_its_own_resolution():
    scribbles = np.full((60, 200, 200), UNLABELLED, np.uint8)
    scribbles[28:32:2, 100, 98:104], scribbles[28:32:2, 80, 60:140] = 1, 0
    image = Volume(np.random.default_rng(0).normal(0, 1, scribbles.shape).astype(np.float32), np.eye(4))
    loaded = LoadedCase("case", {"mr": image}, image.with_array(scribbles), None)
    assert working_case(loaded).prepared.spacing == pytest.approx((1, 1, 1))
    scribbles[28, 90:130, 98] = 1
    assert working_case(loaded).prepared.spacing == pytest.approx((2.5, 1.4, 1.4))


def drawn_in_one_plane(axis: int) -> LoadedCase:
    """The two cubes with all strokes in one plane across an axis of (k, j, i)."""
    loaded = loaded_case(("mr",))
    image = loaded.images["mr"].array
    scribbles = np.full(image.shape, UNLABELLED, np.uint8)
    labels = np.where(image > 150, 2, np.where(image > 50, 1, 0))
    place = {0: 5, 1: 20}[axis]
    np.moveaxis(scribbles, axis, 0)[place] = np.moveaxis(labels, axis, 0)[place]
    return replace(loaded, scribbles=loaded.grid.with_array(scribbles))


def test_strokes_across_another_axis_are_fitted_along_it(prior):
    loaded = drawn_in_one_plane(1)
    spacing = loaded.grid.spacing
    turned = fit_case(loaded, TABLE, FitConfig(seconds=0), prior=prior)
    assert same_geometry(turned.labels, loaded.grid)
    assert turned.card.preprocessing.spacing == pytest.approx((spacing[1], spacing[0] / 2, spacing[2]))
    scratch = fit_case(loaded, TABLE, FitConfig("scratch", **QUICK))  # its model serves `segment`, which turns nothing
    assert scratch.card.preprocessing.spacing == pytest.approx(spacing)


@pytest.mark.parametrize("axis", [0, 1])
def test_an_answer_comes_back_from_turned_axes(axis):
    loaded = drawn_in_one_plane(axis)
    smooth = gaussian_filter(loaded.grid.array.astype(np.float32), 2)
    loaded = replace(loaded, images={"mr": loaded.grid.with_array(smooth)})
    working = working_case(loaded, for_prior=True)
    image = working.prepared.images[0]
    shape = loaded.grid.shape
    assert image.shape == {0: shape, 1: (shape[1], 2 * shape[0], shape[2])}[axis]  # slices of 3 mm are halved
    probabilities = np.stack([image < 0.5, image >= 0.5, image < 0]).astype(np.float32)
    low, high = np.percentile(smooth, (0.5, 99.5))
    threshold = (low + high) / 2
    compared = (loaded.scribbles.array == UNLABELLED) & (abs(smooth - threshold) > 12)
    assert compared.mean() > 0.7
    assert np.array_equal(working.answer(probabilities).labels.array[compared], (smooth >= threshold)[compared])


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit_case(loaded_case(), TABLE, FitConfig(method="pce", **QUICK))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("held_out", [0.0, 0.3])
def test_a_prior_is_tuned_for_some_steps_and_the_progress_tells(held_out):
    working = working_case(loaded_case())
    judge = split_scribbles(working.prepared.scribbles, held_out, np.random.default_rng(0))
    told = []
    tuner = FailingTuner(RuntimeError("never"))
    tuner.step = lambda: {"total": 1.0}
    limits = SearchLimits(600.0, 600.0, 0)
    search = Search(working, judge, tuner, limits, lambda *event: told.append(event[:2]), CancelToken(), None)
    search.run()
    assert len(search.history) == TUNING_STEPS
    assert told[0] == (13, 600) and told[-1] == (600, 600)
