"""What is run again after a pass, and how."""

import os
import signal

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from bids_gmvae.cli.execution import Outcome, _repetitions, run_workflow
from bids_gmvae.cli.failures import Failure, find_failure
from bids_gmvae.cli.signals import Stopped, stoppable
from bids_gmvae.cli.watchdog import STALLED
from bids_gmvae.cli.workers import KILLED
from bids_gmvae.config import ComputeSettings, RunSettings
from bids_gmvae.exceptions import ExitCode, InputError
from bids_gmvae.interfaces.base import write_failure
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


@pytest.mark.parametrize(
    ("symptom", "message"),
    [
        ("concurrent.futures.process.BrokenProcessPool: ...", KILLED.message),
        (f"GMVAEError: {STALLED}", STALLED.message),
        ("ValueError: the reason that the node left is better", "No gradients."),
    ],
)
def test_a_reason_of_an_earlier_call_is_not_that_of_a_process_that_was_ended(
    tmp_path, symptom, message
):
    node = pe.Node(Function(function=go_on), name="fit", base_dir=str(tmp_path))
    os.makedirs(node.output_dir())
    write_failure(tmp_path / "fit", InputError("No gradients.", "Add a bvec file."))
    crash_file = tmp_path / "crash-fit.txt"
    crash_file.write_text(f"Node: fit\n{symptom}\n")
    assert find_failure(node, crash_file).message == message


def ask_to_end():
    """Be where Ctrl-C meets a node that runs in the process of the command."""
    os.kill(os.getpid(), signal.SIGTERM)


def go_on():
    """Be what must not be begun any more."""


def test_a_request_to_end_is_heard_although_nipype_catches_what_nodes_raise(tmp_path):
    plugin = tmp_path / "plugin.yml"
    plugin.write_text("plugin: Linear\n")
    settings = RunSettings(
        tmp_path, tmp_path, "participant", compute=ComputeSettings(use_plugin=plugin)
    )
    workflow = pe.Workflow("wf", base_dir=str(tmp_path))
    imports = ["import os", "import signal"]
    for name, function in (("asked", ask_to_end), ("then", go_on)):
        workflow.add_nodes([pe.Node(Function(function=function, imports=imports), name=name)])
    with pytest.raises(Stopped, match="signal 15"), stoppable():
        run_workflow(workflow, settings, tmp_path)
    assert not (tmp_path / "wf/then/result_then.pklz").exists()
