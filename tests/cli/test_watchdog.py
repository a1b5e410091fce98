"""Processes that stand still are told and ended; those that compute or are suspended are not."""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from nipype.utils.profiler import ResourceMonitor

from bids_gmvae.cli.workers import run_in_child
from bids_gmvae.config import ExecutionSettings
from bids_gmvae.exceptions import ExitCode, GMVAEError
from tests.faults.processes import end_of, finish, start

#: Ends what stands still after three seconds.
LIMIT = 3.0
IMPATIENT = ExecutionSettings(stall_timeout=LIMIT / 60)
MONITORED = replace(IMPATIENT, resource_monitor=True)

#: What a process begins with that calls functions of this module in children.
PREAMBLE = (
    "import os, signal, sys, threading\n"
    "from multiprocessing import forkserver\n"
    "from pathlib import Path\n"
    "from bids_gmvae.cli.logs import configure_logging\n"
    "from bids_gmvae.cli.watchdog import Watchdog\n"
    "from bids_gmvae.cli.pool import WorkerPool\n"
    "from bids_gmvae.cli.workers import run_in_child\n"
    "from tests.cli.test_watchdog import *\n"
)

#: More than a process may transfer that stands still, at once.
MUCH = 10_000_000


def stop_myself():
    """Do nothing any more, and do not even react to what asks for an end."""
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_with_monitor(folder):
    """Do nothing but what Nipype's resource monitor does all the time."""
    monitor = ResourceMonitor(os.getpid(), freq=1, fname=f"{folder}/monitored")
    monitor.daemon = True  # else it keeps the process, if nothing ends it
    monitor.start()
    time.sleep(20)


def compute(seconds):
    """Use the processor for a while, silently."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def transfer(seconds, read):
    """Read or write for a while, which hardly takes a processor."""
    buffer, end = bytearray(MUCH), time.monotonic() + seconds
    with open("/dev/zero" if read else "/dev/null", "rb" if read else "wb", buffering=0) as file:
        while time.monotonic() < end:
            file.readinto(buffer) if read else file.write(buffer)
            time.sleep(LIMIT / 6)


def wait_for(path):
    """Say that waiting begins, and wait."""
    print("waiting", flush=True)
    while not path.exists():
        time.sleep(0.1)


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("bids_gmvae"), "propagate", True)
    return caplog


def told(log, number):
    """Give messages, which another thread may still have to write."""
    deadline = time.monotonic() + 60
    while len(log.messages) < number:
        assert time.monotonic() < deadline, log.messages
        time.sleep(0.01)
    return log.messages


def test_a_child_that_stands_still_is_told_and_then_ended(log):
    with pytest.raises(GMVAEError, match="It stood still, and was ended"):
        run_in_child(stop_myself, execution=IMPATIENT)
    first, last = told(log, 2)
    assert first.startswith("'stop myself' stands still: for 0.5 s, nothing was computed, read")
    assert "After 3.0 s, its processes are ended (--stall-timeout)" in first
    assert last.startswith("'stop myself' stands still: for 3.0 s")


def test_a_monitored_child_that_stands_still_is_told_once_and_ended(log, tmp_path):
    with pytest.raises(GMVAEError, match="It stood still, and was ended"):
        run_in_child(stop_with_monitor, tmp_path, execution=MONITORED)
    assert len(told(log, 2)) == 2


def test_what_computes_reads_or_writes_for_long_is_left_alone():
    long = 2 * LIMIT
    calls = [
        f"run_in_child(compute, {long}, execution=IMPATIENT)",
        f"run_in_child(transfer, {long}, True, execution=IMPATIENT)",
        f"run_in_child(transfer, {long}, False, execution=IMPATIENT)",
        # This process itself, as it makes a graph.
        f"with WorkerPool({{}}, execution=IMPATIENT, log_file=Path(os.devnull)): compute({long})",
    ]
    processes = [start([sys.executable, "-c", f"{PREAMBLE}{call}"]) for call in calls]
    said = [end_of(process) for process in processes]
    assert [process.returncode for process in processes] == [ExitCode.OK] * len(calls), said


def test_no_child_is_ended_if_there_is_no_limit():
    run_in_child(time.sleep, 1, execution=ExecutionSettings(stall_timeout=0))


def test_time_for_which_a_scheduler_suspends_a_run_does_not_count(tmp_path):
    go_on = tmp_path / "go on"
    code = f"{PREAMBLE}run_in_child(wait_for, Path({str(go_on)!r}), execution=IMPATIENT)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout.readline() == "waiting\n"
        # Alone: its children would notice the signal, but not that a scheduler froze them all.
        process.send_signal(signal.SIGSTOP)
        time.sleep(LIMIT + 1)
        process.send_signal(signal.SIGCONT)
        time.sleep(LIMIT / 6)  # some looks
        go_on.touch()
        assert process.wait(60) == ExitCode.OK, process.stdout.read()


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


@pytest.mark.parametrize(
    "hung", ["run_in_child(stop_myself, execution=IMPATIENT)", "LOGGER.info('more')"]
)
def test_a_log_that_cannot_be_written_keeps_no_run_from_its_end(tmp_path, hung):
    log = tmp_path / "log"
    os.mkfifo(log)
    # A full pipe, which nobody empties.
    full = os.open(log, os.O_RDWR)
    os.write(full, bytes(fcntl.fcntl(full, fcntl.F_GETPIPE_SZ)))
    code = (
        f"{PREAMBLE}configure_logging(Path({str(log)!r}))\n"
        "LOGGER = logging.getLogger('bids_gmvae')\n"
        "with Watchdog(LIMIT / 60, lambda: 'It', lambda: None):\n"
        f"    {hung}\n"
    )
    code, said = finish([sys.executable, "-c", code])
    os.close(full)
    assert code == ExitCode.RUN_FAILED, said
