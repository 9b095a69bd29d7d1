from __future__ import annotations

import pytest

from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.progress import PausableToken
from CrossModalSegLib.worker import context
from CrossModalSegLib.worker.context import Previewer, Reporter
from CrossModalSegLib.worker.messages import Progress
from CrossModalSegLib.worker.store import Recent, Store


class Clock(PausableToken):
    """Time as the test says."""

    now = 0.0

    def clock(self) -> float:
        return self.now


def reporter(monkeypatch: pytest.MonkeyPatch) -> tuple[Reporter, list[Progress], Clock]:
    sent, clock = [], Clock()
    monkeypatch.setattr(context.time, "monotonic", lambda: clock.now)
    return Reporter(sent.append, clock), sent, clock


def test_progress_comes_at_most_ten_times_a_second_but_begins_and_ends_are_never_lost(monkeypatch):
    report, sent, clock = reporter(monkeypatch)
    for step in range(101):
        clock.now = step / 100
        report(step, 100, "fit")
    report(0, 100, "write")
    assert [each.done for each in sent if each.message == "fit"][:3] == [0, 10, 20]
    assert sent[-2].done == 100
    assert sent[-1].message == "write"
    assert len(sent) <= 13


def test_the_remaining_time_follows_the_pace(monkeypatch):
    report, sent, clock = reporter(monkeypatch)
    report(2, 10, "fit")
    clock.now = 4.0
    report(4, 10, "fit")
    assert [each.eta for each in sent] == [None, 12.0]
    clock.now = 5.0
    report(4, 0, "fit")
    assert sent[-1].eta is None


def test_values_that_json_cannot_hold_are_left_out(monkeypatch):
    report, sent, _ = reporter(monkeypatch)
    report(1, 2, "fit", {"loss": float("nan"), "dice": 0.5})
    assert sent[0].values == {"dice": 0.5}


def test_progress_is_where_a_cancelled_job_ends(monkeypatch):
    report, sent, clock = reporter(monkeypatch)
    clock.cancel()
    with pytest.raises(Cancelled):
        report(1, 2)
    assert sent == []


def test_previews_do_not_come_one_upon_the_other(monkeypatch):
    now, sent = [0.0], []
    monkeypatch.setattr(context.time, "monotonic", lambda: now[0])
    preview = Previewer(sent.append)
    for moment in (0.0, 0.3, 0.7, 0.9, 2.0):
        now[0] = moment
        preview(moment)
    assert sent == [0.0, 0.7, 2.0]


def test_the_value_that_was_not_used_for_longest_goes():
    recent = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    assert recent.get_or_make("c", lambda: 3) == 3
    assert recent.get("b") is None
    assert recent.get_or_make("a", lambda: 9) == 1
    recent.drop("a")
    recent.drop("a")
    assert recent.get("a") is None


def test_want_of_memory_forgets_what_can_be_computed_again():
    store = Store()
    for kept in (store.models, store.sessions, store.fits):
        kept.put("a", object())
    store.make_room()
    assert store.models.get("a") is None
    assert store.sessions.get("a") is None
    assert store.fits.get("a") is not None
