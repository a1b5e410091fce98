"""The command in processes of its own, to be killed, starved and doubled."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bids_gmvae.io.atomic import TEMPORARY
from tests.faults.bench import contents

ROOT = Path(__file__).parents[2]

#: After so many seconds something hangs, however busy the machine.
PATIENCE = 180.0


def command(bids: Path, root: Path, *more: object) -> list[str]:
    """Give the command that maps a dataset into ``root/out``, with ``root/work``."""
    return [
        sys.executable, "-m", "bids_gmvae", str(bids), str(root / "out"), "participant",
        "-w", str(root / "work"), "--estimator", "lsq", "--nprocs", "2", *map(str, more),
    ]  # fmt: skip


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command in a session of its own."""
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end_of(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process and its workers; gives what it said."""
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"It hung for {PATIENCE:.0f} s.") from None
    wait_for_the_end_of(process.pid)
    return said


def wait_for_the_end_of(session: int) -> None:
    """Wait until no process of a session is left: workers end with their parent."""
    deadline = time.monotonic() + 30
    while any(_belongs_to(process, session) for process in psutil.process_iter()):
        assert time.monotonic() < deadline, "A worker outlived its parent."
        time.sleep(0.05)


def _belongs_to(process: psutil.Process, session: int) -> bool:
    """Tell whether a process is of a session, and no zombie: init may leave those for a while."""
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    return False


def finish(arguments: list[str], **environment: str) -> tuple[int, str]:
    """Run a command to its end; gives its exit code and what it said."""
    process = start(arguments, **environment)
    said = end_of(process)
    return process.returncode, said


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Make a folder that all processes of the tests share, and none changes."""
    own = factory.getbasetemp()
    base = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    root, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)  # of a process that failed
            root.mkdir()
            make(root)
            done.touch()
    return root


def complete(out: Path) -> dict[str, str]:
    """Give the checksums of what has its name, unfinished files apart."""
    found = contents(out) if out.exists() else {}
    return {name: digest for name, digest in found.items() if TEMPORARY not in name}
