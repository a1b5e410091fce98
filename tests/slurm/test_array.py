"""The array recipe on a cluster: one job per participant, one of them killed half-way."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from bids_gmvae.simulation.dataset import simulate_dataset
from tests.cli.test_run import contents
from tests.slurm.conftest import wait_until

SUBMIT = Path(__file__).parents[2] / "workflows/apptainer_slurm/submit.sh"


@pytest.fixture(scope="module")
def submit(tmp_path_factory, environment):
    """Submit two participants without a container; give the output and both job numbers."""
    root = tmp_path_factory.mktemp("array")
    simulate_dataset(
        root / "bids", n_subjects=2, scheme="short", voxel_size=8.0, n_slices=3, seed=0
    )

    def run(name):
        done = subprocess.run(
            [SUBMIT, root / "bids", root / name],
            env={**environment, "IMAGE": "", "CPUS": "1", "SCRATCH": str(root / f"{name}_work")},
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"Submitted (\d+) \(participants\) and (\d+) \(group\)", done.stdout)
        return root / name, *found.groups()

    return run


@pytest.fixture(scope="module")
def undisturbed(submit, cluster):
    """Checksums of all files that an undisturbed run leaves."""
    out, *jobs = submit("undisturbed")
    cluster.wait(*jobs)
    return contents(out)


def log_of(out, array, task):
    path = out / f"logs/slurm/{array}_{task}.log"
    return path.read_text() if path.exists() else ""


def test_every_participant_is_mapped_and_tabulated(undisturbed):
    for subject in ("sub-01", "sub-02"):
        assert f"{subject}/dwi/{subject}_model-msdki_param-msd_desc-mean_dwimap.nii.gz" in (
            undisturbed
        )
    assert {"sub-01.html", "sub-02.html", "group_parameters.tsv", "group.html"} <= set(undisturbed)


def test_jobs_ask_for_the_memory_of_the_plan(submit, cluster):
    out, array, group = submit("asked")
    described = cluster("scontrol", "show", "job", f"{array}_1")
    cluster("scancel", array, group)
    plan = json.loads((out / "logs/slurm/plan.json").read_text())
    assert f"MinMemoryNode={1000 * plan['memory_gb']}M" in described
    assert "Requeue=1" in described


@pytest.mark.parametrize("how", ["preempted", "killed"])
def test_a_job_that_is_requeued_half_way_leaves_what_an_undisturbed_one_does(
    submit, cluster, undisturbed, how
):
    out, array, group = submit(how)
    task = f"{array}_1"
    if how == "killed":
        # A job that failed is requeued by hand; the tables wait for it.
        cluster("scontrol", "hold", group)
    wait_until(lambda: "fitting" in log_of(out, array, 1))
    if how == "killed":
        cluster("scancel", "--signal=KILL", "--full", task)
        wait_until(lambda: not any(task in line for line in cluster.in_queue(array)))
    cluster("scontrol", "requeue", task)
    if how == "killed":
        wait_until(lambda: any(task in line for line in cluster.in_queue(array)))
        cluster("scontrol", "update", f"JobId={task}", "StartTime=now")
        cluster.wait(array)
        cluster("scontrol", "release", group)
    cluster.wait(array, group)
    assert log_of(out, array, 1).count("fitting") == 2
    assert log_of(out, array, 1).count("reading") == 1
    assert contents(out) == undisturbed
