"""Tuning on the strokes: what the loss says, what is tuned, and that answers never get worse where they are judged."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from referring_support import CONFIG, TABLE, noise, strokes, tiny_model

from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.inference.referring import REFERENCE, ReferSession, tuning
from CrossModalSegLib.inference.referring.stroke_split import split_strokes
from CrossModalSegLib.inference.referring.tuning import (
    BOLD,
    CAUTIOUS,
    HELD_OUT,
    LEAST_GAIN,
    MOST_SLICES,
    _some_slices,
    _Tuner,
    change,
    presence_loss,
    stroke_loss,
    tune,
)
from CrossModalSegLib.models.crossmr import Prediction
from CrossModalSegLib.progress import CancelToken, SilentProgress


def prediction(masks: list[list[float]], similarity: list[list[float]], presence: float = 0.0) -> Prediction:
    """Flat masks of 4 by 4 mask pixels, K organs by N queries."""
    logits = torch.tensor(masks)[None, :, :, None, None].expand(1, len(masks), len(masks[0]), 4, 4).clone()
    return Prediction(logits, torch.tensor([similarity]), torch.full((1, len(masks), len(masks[0])), presence), 3)


def drawn() -> torch.Tensor:
    """16 by 16: three pixels of organ 1, one of organ 2, one of the background."""
    scribbles = torch.full((16, 16), 255, dtype=torch.uint8)
    scribbles[2, 2:5], scribbles[9, 9], scribbles[14, 1] = 1, 2, 0
    return scribbles


def error(logit: float, truth: bool) -> float:
    return float(np.log1p(np.exp(-logit if truth else logit)))


def half(logit: float) -> float:
    """The loss of one flat mask: one tenth of the examples' error, nine of the counter-examples'."""
    return 0.1 * error(logit, True) + 0.9 * error(logit, False)


def without_spleen() -> torch.Tensor:
    scribbles = drawn()
    scribbles[9, 9] = 255
    return scribbles


def test_the_loss_by_hand():
    """One query: the number of pixels makes no difference, one organ is the counter-example of the other."""
    found = stroke_loss(prediction([[2.0], [-1.0]], [[0.0], [0.0]]), drawn(), 0.9)
    assert found.item() == pytest.approx(np.mean([half(2.0), half(-1.0)]), rel=1e-5)


def test_the_mask_is_looked_at_where_the_strokes_are():
    """Its left half says -3, its right one 3, and the eighth column, half-way between 6 and 10 by 3/8, -0.75."""
    given = prediction([[3.0]], [[0.0]])
    given.masks[..., :2] = -3.0
    scribbles = torch.full((16, 16), 255, dtype=torch.uint8)
    scribbles[2, 13:15], scribbles[14, 7] = 1, 0
    found = stroke_loss(given, scribbles, 0.9)
    assert found.item() == pytest.approx(0.1 * error(3.0, True) + 0.9 * error(-0.75, False), rel=1e-5)


def test_the_mask_that_is_shown_is_trained_and_the_fitting_one_is_chosen():
    """The shown query (similarity 3) predicts the organ everywhere, which is mostly wrong; the other does so less."""
    found = stroke_loss(prediction([[5.0, 1.0]], [[3.0, 0.0]]), without_spleen(), 0.9)
    choice = float(np.log(1 + np.exp(3.0)))
    assert found.item() == pytest.approx(half(5.0) + choice, rel=1e-5)


def test_an_organ_without_a_stroke_in_the_slice_learns_where_it_is_not():
    scribbles = torch.full((16, 16), 255, dtype=torch.uint8)
    scribbles[2, 2:5] = 1
    found = stroke_loss(prediction([[2.0], [1.0]], [[0.0], [0.0]]), scribbles, 0.9)
    assert found.item() == pytest.approx(np.mean([0.1 * error(2.0, True), 0.9 * error(1.0, False)]), rel=1e-5)


def test_only_the_first_slice_of_a_batch_has_the_strokes():
    one = prediction([[2.0]], [[0.0]])
    two = Prediction(*(torch.cat([part, part + 9.0]) for part in (one.masks, one.similarity, one.presence)), 3)
    assert stroke_loss(two, without_spleen(), 0.5).item() == stroke_loss(one, without_spleen(), 0.5).item()


def test_answers_are_held_where_they_were():
    """The least that the loss can be is the uncertainty of the answer before."""
    p = 1 / (1 + np.exp(-2.0))
    kept = change(prediction([[2.0]], [[0.0]], 1.0), prediction([[2.0]], [[0.0]], 1.0), [0])
    assert kept.item() == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p), rel=1e-5)
    moved = change(prediction([[2.0]], [[0.0]], 4.0), prediction([[2.0]], [[0.0]], 1.0), [0])
    sigmoid = 1 / (1 + np.exp([-4.0, -1.0]))
    assert (moved - kept).item() == pytest.approx((sigmoid[0] - sigmoid[1]) ** 2, rel=1e-3)
    grown = change(prediction([[3.0]], [[0.0]], 1.0), prediction([[2.0]], [[0.0]], 1.0), [0])
    assert grown > kept


def test_only_organs_that_the_network_knows_are_held():
    one, two = (prediction([[2.0], [mask]], [[0.0], [0.0]], 1.0) for mask in (3.0, -3.0))
    assert change(one, two, [0]).item() == change(two, two, [0]).item()
    assert change(one, two, [1]) > change(two, two, [1])


def test_a_stroke_says_that_its_organ_is_in_the_slice():
    found = presence_loss(prediction([[0.0]] * 2, [[0.0]] * 2, -1.5), drawn(), (2,))
    assert found.item() == pytest.approx(error(-1.5, True), rel=1e-5)
    assert presence_loss(prediction([[0.0]] * 2, [[0.0]] * 2, -1.5), without_spleen(), (2,)).item() == 0.0
    assert presence_loss(prediction([[0.0]] * 2, [[0.0]] * 2, -1.5), drawn(), ()).item() == 0.0


def session() -> ReferSession:
    kept = ReferSession(tiny_model())
    kept.set_reference(noise())
    return kept


def canvas_strokes() -> np.ndarray:
    """Long strokes on two slices."""
    array = np.full((5, 64, 64), 255, np.uint8)
    array[1, 20, 10:40], array[1, 40, 10:40], array[3, 25:45, 30] = 1, 2, 1
    array[1, 60, 5:50] = 0
    return array


def tuned(seconds: float, cancel: CancelToken | None = None, scribbles: np.ndarray | None = None, organs: int = 2):
    kept = session()
    features = partial(kept._store.get, kept._reference)
    given = canvas_strokes() if scribbles is None else scribbles
    return tune(
        tiny_model().network, features, given, organs, seconds, nullcontext, SilentProgress(), cancel or CancelToken()
    )


class Ticks(CancelToken):
    """A clock that goes on by a second each time someone looks at it."""

    now = 0.0

    def clock(self) -> float:
        self.now += 1.0
        return self.now


def test_tuning_does_not_touch_the_network_and_shares_its_encoder():
    before = copy.deepcopy(tiny_model().network.state_dict())
    network, report = tuned(26.0, Ticks())
    assert report.steps > 0 and report.note == ""
    for name, tensor in tiny_model().network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert report.is_better == (network is not tiny_model().network)
    assert network.encoder is tiny_model().network.encoder
    assert all(parameter.grad is None for parameter in tiny_model().network.parameters())


def test_the_answer_agrees_at_least_as_well_as_the_start():
    _, report = tuned(46.0, Ticks())
    assert 0.0 <= report.before <= report.after <= 1.0
    assert report.is_better == (report.after >= report.before + LEAST_GAIN)
    assert report.is_better or report.after == report.before


def test_the_weights_of_the_best_judgement_answer_and_it_ends_when_none_follows(monkeypatch):
    """Of the judgements after 2, 4, … steps the second is the best; three more are waited for."""
    monkeypatch.setattr(tuning, "STEPS_PER_JUDGEMENT", 2)
    monkeypatch.setattr(tuning, "PATIENCE", 3)
    scores, seen = iter([1.2, 1.5, 1.4, 1.5, 0.0]), []

    def judged(tuner: _Tuner) -> float:
        seen.append(tuner.weights())
        return next(scores)

    monkeypatch.setattr(_Tuner, "agreement", judged)
    network, report = tuned(1e6)
    assert (report.steps, report.after, report.is_better) == (10, 1.5, True)
    for name, best in seen[1].items():
        for key, value in getattr(network, name).state_dict().items():
            assert torch.equal(value, best[key]), key
    assert any(not torch.equal(value, seen[-1]["decoder"][key]) for key, value in seen[1]["decoder"].items())


@pytest.mark.parametrize(("seconds", "judgements"), [(10.0, [1]), (2e3, [10, 14])])
def test_the_last_steps_are_judged_too(seconds, judgements, monkeypatch):
    """A slow machine does not take ten steps in the time that is given; they had been lost."""
    seen = []

    class Stopping(Ticks):
        def clock(self) -> float:
            self.now += seconds if len(taken) == judgements[-1] else 0.0
            return self.now

    taken = []
    step = _Tuner.step
    monkeypatch.setattr(_Tuner, "step", lambda tuner: (taken.append(1), step(tuner))[1])
    monkeypatch.setattr(_Tuner, "agreement", lambda tuner: (seen.append(len(taken)), 2.0)[1])
    network, report = tuned(seconds, Stopping())
    assert seen == judgements and report.steps == judgements[-1]
    assert report.is_better and report.after == 2.0 and network is not tiny_model().network


def test_a_loss_that_is_no_number_ends_the_tuning_with_the_best_answer(monkeypatch, caplog):
    losses = iter([0.0] * 3 + [float("nan")])
    original = stroke_loss
    monkeypatch.setattr(tuning, "stroke_loss", lambda *given: original(*given) + next(losses))
    monkeypatch.setattr(_Tuner, "agreement", lambda tuner: 2.0)
    network, report = tuned(1e6)
    assert (report.steps, report.after, report.is_better) == (3, 2.0, True)
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    assert "tuning stopped early (the loss is no longer a finite number)" in caplog.text


def test_the_time_is_kept():
    _, report = tuned(10.0, Ticks())
    assert 1 <= report.steps <= 10


@pytest.mark.parametrize(("below", "new", "pace"), [(0.0, (), CAUTIOUS), (1.1, (1, 2), BOLD)])
def test_organs_that_are_not_found_under_their_strokes_are_learnt_boldly(below, new, pace, monkeypatch):
    """Those that are known are held close to where they were."""
    monkeypatch.setattr(tuning, "NEW_BELOW", below)
    kept, rng = session(), np.random.default_rng(0)
    judge = split_strokes(canvas_strokes(), HELD_OUT, rng)
    tuner = _Tuner(tiny_model().network, partial(kept._store.get, kept._reference), judge, 2, nullcontext, rng)
    assert tuner.new == new
    for _ in range(10):
        tuner.step()
    start = dict(tiny_model().network.decoder.named_parameters())
    found = tuner.answering.decoder.named_parameters()
    moved = max(float((each - start[name]).detach().abs().max()) for name, each in found)
    # Adam moves a weight by about the learning rate in each step.
    most = 10 * pace.learning_rate * (1 - pace.kept_start)
    assert 0.5 * most < moved < 1.5 * most


def test_a_known_organ_is_not_new_since_its_mask_has_a_gap_where_a_stretch_was_held_out(monkeypatch):
    """Of the first organ the mask is right under all of its stroke but that stretch."""
    kept, rng = session(), np.random.default_rng(0)
    judge = split_strokes(canvas_strokes(), HELD_OUT, rng)

    def agreements(_tuner: _Tuner, drawn: np.ndarray) -> dict[int, float]:
        if drawn is judge.held_out:
            return {1: 0.1, 2: 0.2}
        np.testing.assert_array_equal(drawn, canvas_strokes())
        return {1: 0.8, 2: 0.3}

    monkeypatch.setattr(_Tuner, "_agreements", agreements)
    tuner = _Tuner(tiny_model().network, partial(kept._store.get, kept._reference), judge, 2, nullcontext, rng)
    assert tuner.new == (2,) and tuner.before == pytest.approx(0.15)


def test_a_step_weighs_how_far_the_answers_of_known_organs_moved(monkeypatch):
    monkeypatch.setattr(tuning, "NEW_BELOW", 0.0)
    losses = []
    for weight in (0.0, 1.0, 2.0):
        monkeypatch.setattr(tuning, "KEPT_ANSWERS", weight)
        kept, rng = session(), np.random.default_rng(0)
        judge = split_strokes(canvas_strokes(), HELD_OUT, rng)
        tuner = _Tuner(tiny_model().network, partial(kept._store.get, kept._reference), judge, 2, nullcontext, rng)
        losses.append(tuner.step())
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-4)


def test_a_network_without_visual_tokens_is_tuned_too():
    """Its sampler has no parameters."""
    config = replace(CONFIG, visual_tokens=False)
    kept = ReferSession(tiny_model(config))
    kept.set_reference(noise())
    report = kept.refer(strokes(noise()), TABLE, tune_seconds=0.2).tuning
    assert report.steps > 0 and report.note == ""


def test_nothing_is_tuned_without_time_or_a_wish_to_stop():
    assert session().refer(strokes(noise()), TABLE).tuning is None
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        tuned(5.0, cancel)


def test_tuning_is_the_same_each_time():
    first, second = (tuned(26.0, Ticks()) for _ in range(2))
    assert first[1] == second[1]
    for one, other in zip(first[0].parameters(), second[0].parameters()):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda a: a.__setitem__((a == 2) | (a == 0), 255), "a single organ say nothing about where it ends"),
        (lambda a: (a.fill(255), a.__setitem__((1, 5, slice(5, 8)), 1), a.__setitem__((1, 9, 5), 2)), "too short"),
        (lambda a: (a.__setitem__(a != 1, 255), a.__setitem__((1, 9, 5), 2)), "no counter-examples could be held out"),
    ],
)
def test_why_there_is_nothing_to_tune(change, note, caplog):
    scribbles = canvas_strokes()
    change(scribbles)
    network, report = tuned(5.0, None, scribbles, 2 if (scribbles == 2).any() else 1)
    assert network is tiny_model().network
    assert (report.steps, report.is_better) == (0, False)
    assert note in report.note and note in caplog.text


def test_the_session_tunes_and_says_so():
    kept = session()
    drawn_long = np.full(noise().shape, 255, np.uint8)
    drawn_long[1, 3:17, 5], drawn_long[2, 10, 3:20], drawn_long[1, 18, 2:22] = 1, 2, 0
    scribbles = noise().with_array(drawn_long)
    result = kept.refer(scribbles, TABLE, tune_seconds=0.5)
    assert result.tuning.steps >= 1
    plain = kept.refer(scribbles, TABLE)
    assert plain.tuning is None
    assert result.segmentations[REFERENCE].shape == plain.segmentations[REFERENCE].shape


def test_of_very_many_slices_an_even_choice_keeps_every_class():
    array = np.full((60, 8, 8), 255, np.uint8)
    array[:, 2, 2] = 1
    array[33, 5, 5] = 2  # between two of the even choice
    kept = _some_slices(array)
    slices = np.flatnonzero((kept != 255).any(axis=(1, 2)))
    assert len(slices) <= MOST_SLICES + 1
    assert {0, 33, 59} <= set(slices.tolist())
    assert (kept[slices] == array[slices]).all()
