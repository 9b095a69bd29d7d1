from __future__ import annotations

import os
import signal
import threading
from functools import partial

import pytest

from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.training.interrupt import STOPPING, InterruptGuard


def send(number):
    os.kill(os.getpid(), number)


def test_ctrl_c_waits_until_it_is_asked_for():
    with InterruptGuard() as guard:
        assert not guard.cancelled
        guard.raise_if_cancelled()
        send(signal.SIGINT)
        assert guard.cancelled
        with pytest.raises(KeyboardInterrupt):
            guard.raise_if_cancelled()


def test_a_second_ctrl_c_interrupts_at_once():
    with InterruptGuard():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.parametrize("number", STOPPING[1:])
def test_the_systems_wish_to_terminate_and_the_end_of_the_terminal_are_cancellations(number, request):
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))  # nohup ignores one
    with InterruptGuard() as guard:
        send(number)
        with pytest.raises(Cancelled, match="resume"):
            guard.raise_if_cancelled()


def test_a_cancel_token_counts_in_any_thread():
    token, seen = CancelToken(), []

    def work():
        with InterruptGuard(token) as guard:
            seen.append(guard.cancelled)
            token.cancel()
            seen.append(guard.cancelled)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]


def test_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with InterruptGuard():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
