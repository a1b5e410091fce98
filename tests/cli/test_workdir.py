"""A work directory belongs to one process per participant."""

import subprocess
import sys

import pytest

from bids_gmvae.cli.workdir import claimed
from bids_gmvae.exceptions import StorageError

HOLD = """\
import sys
from pathlib import Path
from bids_gmvae.cli.workdir import claimed
with claimed(Path(sys.argv[1]), ["01"]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that computes participant 01."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_participant_that_another_process_computes_is_refused(holder, tmp_path):
    with (
        pytest.raises(StorageError, match=f"computes sub-01 in the work directory {tmp_path}"),
        claimed(tmp_path, ["02", "01"]),
    ):
        pass
    with claimed(tmp_path, ["02", "03"]):
        pass  # others are free, and what was claimed before the refusal is given back


def test_a_killed_process_leaves_nothing_to_clean_up(holder, tmp_path):
    holder.kill()
    holder.wait()
    with claimed(tmp_path, ["01"]):
        pass


def test_a_claim_ends_with_its_block(tmp_path):
    for _ in range(2):
        with claimed(tmp_path, ["01"]):
            pass
