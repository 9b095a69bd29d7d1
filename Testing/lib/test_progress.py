from __future__ import annotations

import threading
import time

import pytest

from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.progress import CancelToken, PausableToken, SilentProgress, TqdmProgress


def test_silence(capsys: pytest.CaptureFixture[str]):
    SilentProgress()(1, 2, "training", {"loss": 0.5})
    assert capsys.readouterr() == ("", "")


def test_a_bar_shows_message_values_and_end(capsys: pytest.CaptureFixture[str]):
    with TqdmProgress() as progress:
        for done in range(1, 4):
            progress(done, 3, "training", {"loss": 0.123456})
    text = capsys.readouterr().err
    assert "training" in text
    assert "loss=0.1235" in text
    assert "3/3" in text


def test_a_new_message_is_a_new_bar(capsys: pytest.CaptureFixture[str]):
    with TqdmProgress() as progress:
        progress(2, 2, "reading")
        progress(1, 4, "training")
    text = capsys.readouterr().err
    assert "reading: 100%" in text
    assert "training:  25%" in text


def test_an_end_that_is_told_twice_is_one_bar(capsys: pytest.CaptureFixture[str]):
    with TqdmProgress() as progress:
        for _ in range(2):
            progress(3, 3, "training", {"loss": 0.5})
    once = capsys.readouterr().err
    assert once.count("training:   0%") == 1


def test_cancelling_from_another_thread():
    token = CancelToken()
    token.raise_if_cancelled()
    assert not token.cancelled
    thread = threading.Thread(target=token.cancel)
    thread.start()
    thread.join()
    assert token.cancelled
    with pytest.raises(Cancelled, match="stopped on request"):
        token.raise_if_cancelled()


def test_work_stands_still_during_a_pause():
    told: list[bool] = []
    token = PausableToken(told.append)
    assert not token.cancelled
    token.pause()
    began = token.clock()
    threading.Timer(0.2, token.resume).start()
    assert not token.cancelled
    assert token.clock() - began < 0.1
    assert told == [True, False]


def test_cancelling_ends_a_pause():
    token = PausableToken()
    token.pause()
    threading.Timer(0.1, token.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        token.raise_if_cancelled()
    assert time.monotonic() - began < 5
    token.pause()
    assert token.cancelled
