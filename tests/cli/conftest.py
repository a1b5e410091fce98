"""What tests of the command share."""

import signal

import pytest

from bids_gmvae.cli.signals import REQUESTS


@pytest.fixture(autouse=True)
def _handlers():
    """Let no test end deaf to Ctrl-C, as a command does that was stopped: others send it."""
    before = {request: signal.getsignal(request) for request in REQUESTS}
    yield
    for request, handler in before.items():
        signal.signal(request, handler)
