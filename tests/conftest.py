"""What all tests share: an environment without side effects, and data that may be absent."""

import os
import signal
from pathlib import Path

# Before anything imports them: no windows, no threads that fight over two cores, no network.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "0")

import pytest

# A shell that runs the tests in the background keeps Ctrl-C from them and what they start; some
# tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Skip what needs a device or data that are not here, and say so."""
    for item in items:
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("real_data") and not os.environ.get("GMVAE_TEST_DATA"):
            item.add_marker(pytest.mark.skip(reason="GMVAE_TEST_DATA names no folder"))


#: What tests may record beside passing, and how it is printed: a line for each.
TABLES = {
    "bad_input": ("bad input: case, exit code, message", "{:<42} {:>2}  {}"),
    "kill": (
        "kills: signal, after seconds, exit code, files finished, of these lost, last message",
        "{:<8} {:>5.1f} {:>4} {:>4} {:>2}  {}",
    ),
}


def pytest_terminal_summary(terminalreporter):
    """Print what bad input and kills led to."""
    properties = [
        item for each in terminalreporter.getreports("passed") for item in each.user_properties
    ]
    for table, (title, line) in TABLES.items():
        rows = [row for name, row in properties if name == table]
        if rows:
            terminalreporter.section(title)
        for row in rows:
            terminalreporter.write_line(line.format(*row))


def _has_cuda():
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _seed():
    """Start each test from the same random state."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def real_data():
    """Folder of real datasets."""
    return Path(os.environ["GMVAE_TEST_DATA"])


@pytest.fixture(scope="session")
def repository():
    """Root of the checkout."""
    return Path(__file__).parents[1]
