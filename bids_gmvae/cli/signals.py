"""Requests to end, by Ctrl-C or a scheduler, which reach all processes of a run at any moment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: What users and schedulers send.
REQUESTS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process was asked to end.

    Parameters
    ----------
    number : int
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


#: What was asked for since the process became stoppable, and the `held` blocks that it is in: a
#: process has one set of handlers. A mask alone holds nothing: another thread may get a signal.
_heard: list[int] = []
_blocks: list[object] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn a request into an exception; ignore further ones while the process ends.

    What is ignored from the start stays so: shells keep Ctrl-C from what is in the background.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        _heard.append(number)
        if not _blocks:
            raise Stopped(number)

    heard = [request for request in REQUESTS if signal.getsignal(request) != signal.SIG_IGN]
    afterwards = {request: signal.signal(request, stop) for request in heard}
    try:
        yield
    except Stopped:
        afterwards = dict.fromkeys(heard, signal.SIG_IGN)
        raise
    finally:
        _heard.clear()
        for request, handler in afterwards.items():
            signal.signal(request, handler)


def ignore_requests() -> None:
    """Do not be disturbed while Python ends, which takes a second: all is done by then."""
    for request in REQUESTS:
        signal.signal(request, signal.SIG_IGN)


def insist() -> None:
    """Stop if a request was heard, but somebody caught it: Nipype catches all that nodes raise."""
    if _heard:
        raise Stopped(_heard[0])


@contextmanager
def held(*requests: signal.Signals) -> Iterator[None]:
    """Stop afterwards only; processes that are started within never hear these requests."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, requests)
    _blocks.append(before)
    try:
        yield
    finally:
        _blocks.pop()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    insist()
