"""Tuning on the strokes: what the loss says, what is tuned, and that answers never get worse where they are judged."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from referring_support import TABLE, noise, strokes, tiny_model

from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.inference.referring import REFERENCE, ReferSession
from CrossModalSegLib.inference.referring.tuning import LEAST_GAIN, MOST_SLICES, _some_slices, change, stroke_loss, tune
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
    found = stroke_loss(prediction([[2.0], [-1.0]], [[0.0], [0.0]]), drawn())
    assert found.item() == pytest.approx(np.mean([half(2.0), half(-1.0)]), rel=1e-5)


def test_the_mask_that_is_shown_is_trained_and_the_fitting_one_is_chosen():
    """The shown query (similarity 3) predicts the organ everywhere, which is mostly wrong; the other does so less."""
    found = stroke_loss(prediction([[5.0, 1.0]], [[3.0, 0.0]]), without_spleen())
    choice = float(np.log(1 + np.exp(3.0)))
    assert found.item() == pytest.approx(half(5.0) + choice, rel=1e-5)


def test_an_organ_without_a_stroke_in_the_slice_learns_where_it_is_not():
    scribbles = torch.full((16, 16), 255, dtype=torch.uint8)
    scribbles[2, 2:5] = 1
    found = stroke_loss(prediction([[2.0], [1.0]], [[0.0], [0.0]]), scribbles)
    assert found.item() == pytest.approx(np.mean([0.1 * error(2.0, True), 0.9 * error(1.0, False)]), rel=1e-5)


def test_only_the_first_slice_of_a_batch_has_the_strokes():
    one = prediction([[2.0]], [[0.0]])
    two = Prediction(*(torch.cat([part, part + 9.0]) for part in (one.masks, one.similarity, one.presence)), 3)
    assert stroke_loss(two, without_spleen()).item() == stroke_loss(one, without_spleen()).item()


def test_answers_are_held_where_they_were():
    """The least that the loss can be is the uncertainty of the answer before."""
    p = 1 / (1 + np.exp(-2.0))
    kept = change(prediction([[2.0]], [[0.0]], 1.0), prediction([[2.0]], [[0.0]], 1.0))
    assert kept.item() == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p), rel=1e-5)
    moved = change(prediction([[2.0]], [[0.0]], 4.0), prediction([[2.0]], [[0.0]], 1.0))
    sigmoid = 1 / (1 + np.exp([-4.0, -1.0]))
    assert (moved - kept).item() == pytest.approx((sigmoid[0] - sigmoid[1]) ** 2, rel=1e-3)
    grown = change(prediction([[3.0]], [[0.0]], 1.0), prediction([[2.0]], [[0.0]], 1.0))
    assert grown > kept


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


def test_the_time_is_kept():
    _, report = tuned(10.0, Ticks())
    assert 1 <= report.steps <= 10


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
    array[31, 5, 5] = 2
    kept = _some_slices(array)
    slices = np.flatnonzero((kept != 255).any(axis=(1, 2)))
    assert len(slices) <= MOST_SLICES + 1
    assert {0, 31, 59} <= set(slices.tolist())
    assert (kept[slices] == array[slices]).all()
