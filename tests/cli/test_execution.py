"""What is run again after a pass, and how."""

import pytest

from bids_gmvae.cli.execution import Failure, Outcome, _repetitions
from bids_gmvae.cli.workers import KILLED
from bids_gmvae.config import ComputeSettings, RunSettings
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.workflows.base import fit_name, reader_name
from bids_gmvae.workflows.plan import Plan
from tests.workflows.test_graphs import planned_run

RUNS = [planned_run(label, run=run, group="all") for label in ("01", "02") for run in "12"]
PLAN = Plan("cpu", tuple(RUNS))


def failed(planned, where, message):
    node = f"gmvae_wf.sub_{planned.run.subject}_wf.{where}"
    return Outcome(planned, (Failure(node, message, "", ExitCode.RUN_FAILED, None),))


def repeated(outcomes, tmp_path, nprocs=2):
    """Give the runs that are repeated, and the number of processes, pass by pass."""
    settings = RunSettings(
        tmp_path, tmp_path, "participant", compute=ComputeSettings(nprocs=nprocs)
    )
    return [
        ([RUNS.index(item) for item in plan.runs], how.compute.nprocs)
        for plan, how in _repetitions(PLAN, settings, outcomes)
    ]


@pytest.mark.parametrize(
    ("message", "nprocs", "expected"),
    [
        # Nobody is fitted without the first run, whose fault it need not be.
        (KILLED.message, 2, [([0, 1], 1)]),
        (KILLED.message, 1, [([1], 1)]),
        ("It is broken.", 2, [([1], 2)]),
    ],
)
def test_the_group_of_a_run_that_was_not_read_is_repeated(tmp_path, message, nprocs, expected):
    met = failed(RUNS[0], f"{reader_name(RUNS[0])}.extract", message)
    outcomes = [met, *map(Outcome, RUNS[1:])]
    assert repeated(outcomes, tmp_path, nprocs) == expected


def test_killed_and_broken_runs_of_several_participants_are_repeated_apart(tmp_path):
    killed = [failed(each, f"{fit_name(each)}.fit", KILLED.message) for each in RUNS[:2]]
    broken = failed(RUNS[3], f"{reader_name(RUNS[3])}.check", "It is broken.")
    outcomes = [*killed, Outcome(RUNS[2]), broken]
    assert repeated(outcomes, tmp_path) == [([0, 1], 1), ([2], 2)]


def test_nothing_is_repeated_where_all_failed_for_their_own_sake_or_none_did(tmp_path):
    broken = [failed(each, f"{reader_name(each)}.check", "It is broken.") for each in RUNS]
    assert repeated(broken, tmp_path) == []
    unfitted = [failed(each, f"{fit_name(each)}.fit", "It is broken.") for each in RUNS]
    assert repeated(unfitted, tmp_path) == []
    assert repeated([Outcome(each) for each in RUNS], tmp_path) == []
