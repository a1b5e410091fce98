"""The claim on participants in a work directory."""

import subprocess
import sys

import pytest

from bids_gmvae.cli.workdir import claimed
from bids_gmvae.exceptions import StorageError

OTHER = """
import sys
from pathlib import Path
from bids_gmvae.cli.workdir import claimed
with claimed(Path(sys.argv[1]), sys.argv[2:]):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that computes sub-01 and sub-02."""
    command = [sys.executable, "-c", OTHER, str(tmp_path), "01", "02"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_participant_is_claimed_until_its_process_ends_however_it_does(other, tmp_path):
    with (
        pytest.raises(StorageError, match="Another process computes sub-02"),
        claimed(tmp_path, ["03", "02"]),
    ):
        pass
    with claimed(tmp_path, ["03"]):
        pass
    other.kill()
    other.wait()
    with claimed(tmp_path, ["01", "02"]):
        pass


def test_thousands_of_participants_are_claimed_at_once(tmp_path):
    with claimed(tmp_path, [f"{number:05}" for number in range(5000)]):
        pass
