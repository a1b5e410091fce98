"""Processes that stand still are told and ended; those that compute or are suspended are not."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from bids_gmvae.cli.workers import run_in_child
from bids_gmvae.config import ExecutionSettings
from bids_gmvae.exceptions import ExitCode, GMVAEError
from tests.faults.processes import finish

#: Ends what stands still after two seconds.
IMPATIENT = ExecutionSettings(stall_timeout=1 / 30)

#: What a process begins with that calls functions of this module in children.
PREAMBLE = (
    "import os, signal, sys\n"
    "from multiprocessing import forkserver\n"
    "from bids_gmvae.cli.workers import run_in_child\n"
    "from tests.cli.test_watchdog import IMPATIENT, nap\n"
)


def stop_myself():
    """Do nothing any more, and do not even react to what asks for an end."""
    os.kill(os.getpid(), signal.SIGSTOP)


def compute(seconds):
    """Use the processor for a while, silently."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def nap(seconds):
    """Say that a sleep begins."""
    print("napping", flush=True)
    time.sleep(seconds)


def test_a_child_that_stands_still_is_told_and_then_ended(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("bids_gmvae"), "propagate", True)
    with pytest.raises(GMVAEError, match="It stood still, and was ended"):
        run_in_child(stop_myself, execution=IMPATIENT)
    told, ended = (record.getMessage() for record in caplog.records)
    assert told.startswith("'stop myself' stands still: for 0 seconds, no processor time was used")
    assert "After 2 seconds its processes are ended (--stall-timeout)" in told
    assert ended.startswith("'stop myself' stands still: for 2 seconds")


def test_a_child_that_computes_for_long_is_left_alone():
    run_in_child(compute, 3, execution=IMPATIENT)


def test_no_child_is_ended_if_there_is_no_limit():
    run_in_child(time.sleep, 1, execution=ExecutionSettings(stall_timeout=0))


def test_time_for_which_a_scheduler_suspends_a_run_does_not_count():
    code = f"{PREAMBLE}run_in_child(nap, 3.8, execution=IMPATIENT)\nprint('well')"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "napping\n"
        time.sleep(0.3)  # until its last movement was seen
        # Alone: its children would notice the signal, but not that a scheduler froze them all.
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=60)[0] == "well\n"


def test_a_run_that_hangs_itself_ends_with_all_its_processes():
    code = (
        f"{PREAMBLE}run_in_child(abs, 1, execution=IMPATIENT)\n"
        "os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)\n"
        "run_in_child(abs, 1, execution=IMPATIENT)\n"
        "print('never')\n"
    )
    code, said = finish([sys.executable, "-c", code])
    assert code == ExitCode.RUN_FAILED, said
    assert "'abs' stands still" in said
    assert said.endswith("Nothing came of it. What is finished is kept: repeat the command.\n")
