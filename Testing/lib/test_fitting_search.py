"""The best answer of a fit, by scripted agreements, and what a prompted network is asked for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.fitting import search as searching
from CrossModalSegLib.fitting.fit_case import FitConfig, _tuner
from CrossModalSegLib.fitting.prompted import MOST_ALONE, contradicted_slices, segment_prompted
from CrossModalSegLib.fitting.prompts import PROMPT_CHANNELS
from CrossModalSegLib.fitting.search import Search, SearchLimits
from CrossModalSegLib.fitting.tuning import PromptedTuner, PromptedTuning, optimise
from CrossModalSegLib.fitting.working_case import working_case
from CrossModalSegLib.progress import CancelToken, SilentProgress
from CrossModalSegLib.volume import Volume

CPU = torch.device("cpu")


def small_case() -> LoadedCase:
    """Bright where class 1 is scribbled, dark elsewhere; strokes on every other slice of 4 mm."""
    image = np.zeros((8, 32, 32), np.float32)
    image[:, 8:20, 8:20] = 1.0
    scribbles = np.full(image.shape, 255, np.uint8)
    scribbles[::2, 12, 9:19], scribbles[::2, 28, 2:30], scribbles[::2, 24, 2:6] = 1, 0, 2
    grid = Volume(image, np.diag([2.0, 2.0, 4.0, 1.0]))
    return LoadedCase("case", {"mr": grid}, grid.with_array(scribbles), None)


class Counting:
    """Its weight, and its answer everywhere, is the number of its steps."""

    answers_at_once = True
    can_forget = True

    def __init__(self) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.seen: list[np.ndarray] = []

    def step(self) -> dict[str, float]:
        with torch.no_grad():
            self.network.weight += 1
        return {"total": 1.0}

    def shrink(self) -> bool:
        return False

    def predict(self, shown: np.ndarray, cancel: CancelToken | None = None) -> np.ndarray:
        self.seen.append(shown)
        return np.full((2, *shown.shape), self.network.weight.item(), np.float32)


def searched(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> tuple[Search, Counting, SimpleNamespace, float]:
    """A search of four steps with a judgement after each, and its answer."""
    monkeypatch.setattr(searching, "TUNING_STEPS", 4)
    left = iter(scores)
    judge = SimpleNamespace(can_judge=True, shown=np.zeros((1, 1, 1), np.uint8), agreement=lambda _: next(left))
    tuner, working = Counting(), working_case(small_case())
    search = Search(working, judge, tuner, SearchLimits(1e6, 0.0, 0), SilentProgress(), CancelToken(), None)
    return search, tuner, judge, float(search.run().max())


def test_the_answer_that_agrees_best_is_given_with_its_weights(monkeypatch):
    search, tuner, judge, answer = searched([0.5, 0.503, 0.6, 0.4, 0.604], monkeypatch)
    assert [stage.is_best for stage in search.stages] == [True, False, True, False, False]
    assert len(search.history) == 4
    assert answer == tuner.network.weight.item() == 2
    # Judged by the strokes that are shown; the answers, the first and the best one, are from all strokes.
    is_judged = [shown is judge.shown for shown in tuner.seen]
    assert is_judged == [False, True, True, True, False, True, True]


def test_a_first_answer_that_nothing_beats_is_given(monkeypatch):
    _, tuner, _, answer = searched([0.9, 0.1, 0.2, 0.3, 0.4], monkeypatch)
    assert answer == tuner.network.weight.item() == 0


class Echo(nn.Module):
    """Says that the class is where its strokes are shown, and remembers what it was shown."""

    divisor = 16

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.inputs: list[torch.Tensor] = []

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x)
        inside = 20 * x[:, 2:3] - 10
        return torch.cat([-inside, inside], dim=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.segment(x) + self.weight}


def test_what_looks_like_a_class_gets_its_probability():
    scribbles = np.full((2, 20, 20), 255, np.uint8)
    scribbles[:, 5, 5:15], scribbles[:, 15, 5:15] = 1, 2
    found = segment_prompted(Echo(), np.zeros((1, 2, 20, 20), np.float32), scribbles, 3, (3.0, 1.0, 1.0), CPU)
    np.testing.assert_array_equal(found.argmax(axis=0)[scribbles != 255], scribbles[scribbles != 255])
    assert found[0, :, 10, :5].min() > 0.99


class Everywhere(Echo):
    """Says that the class is everywhere."""

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([-torch.ones_like(x[:, 0]), torch.ones_like(x[:, 0])], dim=1)


def test_a_class_is_not_found_where_it_is_known_to_be_absent():
    scribbles = np.full((7, 20, 20), 255, np.uint8)
    scribbles[:, 15, 5:15], scribbles[1:, 5, 5:15] = 0, 1
    found = segment_prompted(Everywhere(), np.zeros((1, 7, 20, 20), np.float32), scribbles, 2, (3.0, 1.0, 1.0), CPU)
    assert found[1, 0].max() < 1e-4 and found[1, 1:].min() > 0.7


class Shifted(Echo):
    """Sees the strokes of several slices one voxel below where they are, those of a single slice where they are."""

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        is_alone = x[0, 2].any(dim=-1).any(dim=-1).sum() == 1
        inside = 20 * (x[:, 2:3] if is_alone else x[:, 2:3].roll(1, dims=-2)) - 10
        self.inputs.append(x)
        return torch.cat([-inside, inside], dim=1)


@pytest.mark.parametrize(
    ("network", "thick_mm", "calls"), [(Shifted(), 4.0, 1 + 3), (Shifted(), 3.9, 1), (Echo(), 4.0, 1)]
)
def test_a_thick_slice_whose_strokes_an_answer_contradicts_is_answered_alone(network, thick_mm, calls):
    scribbles = np.full((3, 20, 20), 255, np.uint8)
    scribbles[:, 5, 5:15], scribbles[:, 15, 5:15] = 1, 0
    found = segment_prompted(network, np.zeros((1, 3, 20, 20), np.float32), scribbles, 2, (thick_mm, 1.0, 1.0), CPU)
    is_right = (found.argmax(axis=0) == (scribbles == 1)).all()
    assert (is_right, len(network.inputs)) == (thick_mm == 4.0, calls)


def test_only_thin_classes_are_seen_in_halved_voxels():
    scribbles = np.full((3, 30, 30), 255, np.uint8)
    scribbles[:, 5, 5:15], scribbles[:, 15, 5:15] = 1, 2
    image, network = np.zeros((1, 3, 30, 30), np.float32), Echo()
    found = segment_prompted(network, image, scribbles, 3, (3.0, 1.0, 1.0), CPU, thin={2})
    assert [x.shape[-1] for x in network.inputs] == [32, 64]
    np.testing.assert_array_equal(found.argmax(axis=0)[scribbles != 255], scribbles[scribbles != 255])


def test_views_that_have_other_voxels_are_both_answered():
    scribbles = np.full((3, 60, 60), 255, np.uint8)
    scribbles[:, 5, :], scribbles[:, 15, :] = 1, 0
    image = np.zeros((1, 3, 60, 60), np.float32)
    # 60 mm count as 20 mm, for which the image has no finer voxels.
    for thicknesses, voxels in (({}, {64, 48}), ({1: 10.0}, {64})):
        network = Echo()
        segment_prompted(network, image, scribbles, 2, (3.0, 1.0, 1.0), CPU, thicknesses=thicknesses)
        assert {x.shape[-1] for x in network.inputs} == voxels


def test_only_the_slices_that_are_contradicted_most_are_answered_alone():
    scribbles = np.full((40, 4, 20), 255, np.uint8)
    scribbles[:, 0], scribbles[:, 2] = 1, 0
    logits = np.where(scribbles == 1, 1.0, -1.0).astype(np.float32)
    assert contradicted_slices(logits, scribbles, 1) == []
    logits[7, 0, :2] = -1.0  # a tenth is missed
    assert contradicted_slices(logits, scribbles, 1) == []
    logits[7, 0, :3], logits[9, 2, :2] = -1.0, 1.0
    assert contradicted_slices(logits, scribbles, 1) == [9, 7]
    logits[:, 0, :4] = -1.0
    assert contradicted_slices(logits, scribbles, 1)[0] == 9
    assert len(contradicted_slices(logits, scribbles, 1)) == MOST_ALONE


def test_padding_holds_no_strokes():
    network = Echo()
    scribbles = np.full((1, 20, 20), 255, np.uint8)
    scribbles[0, :, 19], scribbles[0, 19, :10] = 1, 0
    segment_prompted(network, np.zeros((1, 1, 20, 20), np.float32), scribbles, 2, (3.0, 1.0, 1.0), CPU)
    for shown in network.inputs:
        assert shown.shape[1:] == (2 + PROMPT_CHANNELS, 16, 32, 32)
        assert shown[0, 2:4, 0].any() and not shown[0, 2:4, 1:].any()
        assert not shown[0, 2:4, :, 20:].any() and not shown[0, 2:4, :, :, 20:].any()


def prompted(loss, **config) -> PromptedTuner:
    case = working_case(small_case()).prepared
    return PromptedTuner(Echo(), case, case.scribbles, 3, loss, PromptedTuning(**config), 0, CPU)


def test_a_thin_class_is_tuned_in_halved_voxels():
    case = working_case(small_case()).prepared
    spacings = set()

    def spy(logits, images, target, spacing):
        spacings.add(spacing)
        return {"total": logits["out"].sum()}

    tuner = PromptedTuner(Echo(), case, case.scribbles, 3, spy, PromptedTuning(), 0, CPU, thin={1})
    for _ in range(12):
        tuner.step()
    assert spacings == {(4.0, 2.0, 2.0), (4.0, 1.0, 1.0)}
    tuner.network.inputs.clear()
    tuner.predict(case.scribbles)
    plain, halved = sorted(tuner.network.inputs, key=lambda x: x.numel())
    assert halved.shape[-1] > plain.shape[-1]


def test_a_step_asks_for_one_class_against_all_others_where_it_is():
    calls = []

    def spy(logits, images, target, spacing):
        calls.append((logits["out"], images, target, spacing))
        return {"total": logits["out"].sum()}

    tuner = prompted(spy)
    for _ in range(12):
        tuner.step()
    seen = set()
    for _, images, target, spacing in calls:
        assert set(target.unique().tolist()) <= {0, 1, 255}
        assert spacing == pytest.approx((4.0, 2.0, 2.0))
        brightness = images[0, 0][target[0] == 1].unique().tolist()
        assert brightness in ([1.0], [0.0])  # class 1 lies in the bright square, class 2 beside it
        assert set(images[0, 0][target[0] == 0].unique().tolist()) <= ({0.0} if brightness == [1.0] else {0.0, 1.0})
        seen.add(brightness[0])
    assert seen == {0.0, 1.0}


def test_strokes_are_hidden_less_often_where_they_are_close():
    tuner = prompted(lambda *_: None, hidden_share=(0.2, 0.6), learning_rate=(1e-5, 1e-4))  # 8 mm apart
    assert tuner._hidden_share == 0.2
    assert tuner._optimizer.param_groups[0]["lr"] == 1e-5
    tuner._hidden_share = 1.0
    scribbles = working_case(small_case()).prepared.scribbles
    for _ in range(5):
        shown = tuner._hide_slices(scribbles, 1)
        assert (shown == 1).any(axis=(1, 2)).sum() == 1


def test_a_network_from_scratch_learns_from_the_strokes_that_are_shown():
    working = working_case(small_case())
    shown = np.where(np.arange(8)[:, None, None] < 4, working.prepared.scribbles, 255).astype(np.uint8)
    tuner = _tuner(FitConfig(method="pce", base_channels=2), working, shown, 3, "", None, CPU)
    np.testing.assert_array_equal(tuner._sampler.labels[0], shown)


def test_a_step_is_bounded_and_never_taken_towards_what_is_no_number():
    network = nn.Linear(1, 1, bias=False)
    before = network.weight.item()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    optimise(network, optimizer, {"total": 1000 * network.weight.sum()})
    assert network.weight.item() == pytest.approx(before - 5.0)
    with pytest.raises(FloatingPointError, match="no longer a finite number"):
        optimise(network, optimizer, {"total": network.weight.sum() * torch.nan})
    assert network.weight.item() == pytest.approx(before - 5.0)
