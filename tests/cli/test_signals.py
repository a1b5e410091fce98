"""Requests to end: heard when they can be, once, and not where a shell keeps them away."""

import os
import signal
import threading
import time

import pytest

from bids_gmvae.cli import signals
from bids_gmvae.cli.signals import REQUESTS, Stopped, held, stoppable


def ask(request):
    os.kill(os.getpid(), request)


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_first_request_is_an_exception_and_the_second_is_nothing(request_):
    with pytest.raises(Stopped, match=f"signal {request_:d}") as stop, stoppable():
        ask(request_)
    assert stop.value.number == request_
    for another in REQUESTS:
        ask(another)


def test_who_is_not_asked_gets_his_handlers_back():
    before = [signal.getsignal(request) for request in REQUESTS]
    with stoppable():
        assert [signal.getsignal(request) for request in REQUESTS] != before
    assert [signal.getsignal(request) for request in REQUESTS] == before


def test_what_a_shell_ignores_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stoppable():
        ask(signal.SIGINT)
    with pytest.raises(Stopped, match="signal 15"), stoppable():
        ask(signal.SIGTERM)


@pytest.fixture
def _threads():
    """Have another thread, which the system may choose to receive a signal."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield
    end.set()
    thread.join()


@pytest.mark.usefixtures("_threads")
def test_a_request_that_is_held_is_heard_afterwards():
    reached = []

    def work():
        with held(*REQUESTS):
            ask(signal.SIGINT)
            # The thread that gets it may have to wait for a processor.
            while not signals._heard:
                time.sleep(0.001)
            reached.append("the end of what must not be interrupted")
        reached.append("what may be")

    with pytest.raises(Stopped, match="signal 2"), stoppable():
        work()
    assert reached == ["the end of what must not be interrupted"]
