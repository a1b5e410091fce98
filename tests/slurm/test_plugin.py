"""Nipype's SLURM plugin: each step is a job that asks for what it needs."""

import json
import subprocess

import pytest

from bids_gmvae.exceptions import ExitCode
from tests.cli.test_run import contents
from tests.slurm.conftest import wait_until
from tests.tiny import tiny_dataset


@pytest.fixture(scope="module")
def start(tmp_path_factory, environment):
    """Start the app on a participant; gives its process and its output folder."""
    root = tmp_path_factory.mktemp("plugin")
    tiny_dataset(root / "bids", "sub-01/dwi/sub-01")
    (root / "slurm.json").write_text(
        json.dumps({"plugin": "SLURM", "plugin_args": {"sbatch_args": "--time=5"}})
    )

    def run(name, *more):
        command = ("bids-gmvae", root / "bids", root / name, "participant", "--nprocs", "1")
        process = subprocess.Popen(
            [*command, "-w", root / f"{name}_work", "--estimator", "lsq", *more],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, root / name

    run.plugin = ("--use-plugin", root / "slurm.json")
    return run


@pytest.fixture(scope="module")
def expected(start):
    """Checksums of all files that a run without plugin leaves."""
    process, out = start("expected")
    process.communicate(timeout=200)
    return contents(out)


def job_of(cluster, step):
    """Give the number of the job that runs a step, once there is one."""
    lines = cluster("squeue", "--noheader", "--format=%i %200j").splitlines()
    return next((line.split()[0] for line in lines if f" {step}." in line), None)


def test_steps_are_jobs_that_ask_for_memory_and_leave_the_same_files(start, cluster, expected):
    process, out = start("out", *start.plugin)
    asked = {}
    for step in ("check", "extract", "fit"):
        job = wait_until(lambda step=step: job_of(cluster, step))
        described = cluster("scontrol", "show", "job", job)
        (asked[step],) = [word for word in described.split() if word.startswith("MinMemoryNode=")]
    _, error = process.communicate(timeout=300)
    assert process.returncode == ExitCode.OK, error
    assert asked == {
        "check": "MinMemoryNode=500M",
        "extract": "MinMemoryNode=801M",
        "fit": "MinMemoryNode=1501M",
    }
    assert contents(out) == expected


def test_a_job_that_the_scheduler_ends_is_explained_and_done_again(start, cluster, expected):
    process, out = start("ended", *start.plugin)
    cluster("scancel", wait_until(lambda: job_of(cluster, "fit")))
    _, error = process.communicate(timeout=300)
    assert process.returncode == ExitCode.RUN_FAILED
    assert "The scheduler ended its job" in error
    assert "Traceback" not in error
    process, _ = start("ended", *start.plugin)
    _, error = process.communicate(timeout=300)
    assert process.returncode == ExitCode.OK, error
    assert contents(out) == expected
