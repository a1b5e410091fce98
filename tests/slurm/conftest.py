"""A SLURM cluster to test on, whichever answers."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

#: Seconds; a requeued job waits for two minutes before it may start again.
PATIENCE = 400


def pytest_collection_modifyitems(items):
    """Skip, with the reason, where no cluster answers."""
    here = Path(__file__).parent
    mine = [item for item in items if here in item.path.parents]
    reason = _missing() if mine else None
    for item in mine:
        item.add_marker("slurm")
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _missing():
    """Say why there is no cluster, or nothing."""
    if not (shutil.which("sbatch") and shutil.which("sinfo")):
        return "no SLURM on this machine"
    answer = subprocess.run(
        ["sinfo", "--noheader", "--format=%a"], capture_output=True, text=True, check=False
    )
    if answer.returncode or "up" not in answer.stdout:
        return f"no SLURM cluster answers: {answer.stderr.strip().splitlines()[-1:]}"
    return None


class Cluster:
    """The commands of SLURM."""

    def __call__(self, program, *arguments):
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def in_queue(self, *jobs):
        """Give jobs and tasks that wait or run, as ``ID NAME STATE``."""
        lines = self("squeue", "--noheader", "--array", "--format=%F %i %T").splitlines()
        return [line for line in lines if not jobs or line.split()[0] in jobs]

    def wait(self, *jobs):
        """Wait until jobs are out of the queue."""
        wait_until(lambda: not self.in_queue(*jobs))


def wait_until(condition):
    """Wait for what must come; what it gives is handed on."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"waited for {PATIENCE} s")


@pytest.fixture(scope="session")
def cluster():
    """The cluster that answers."""
    return Cluster()


@pytest.fixture(scope="session")
def environment():
    """Variables for the jobs: the app on the path, one thread."""
    programs = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
