"""What all tests share: an environment without side effects, and data that may be absent."""

import os
from pathlib import Path

# Before anything imports them: no windows, no threads that fight over two cores, no network.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "0")

import pytest


def pytest_collection_modifyitems(items):
    """Skip what needs a device or data that are not here, and say so."""
    for item in items:
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("real_data") and not os.environ.get("GMVAE_TEST_DATA"):
            item.add_marker(pytest.mark.skip(reason="GMVAE_TEST_DATA names no folder"))


def pytest_terminal_summary(terminalreporter):
    """Print what bad input led to: case, exit code and message."""
    passed = terminalreporter.getreports("passed")
    rows = [
        value for each in passed for name, value in each.user_properties if name == "bad_input"
    ]
    if rows:
        terminalreporter.section("bad input: case, exit code, message")
        for case, code, message in rows:
            terminalreporter.write_line(f"{case:<42} {code:>2}  {message}")


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
