"""Workers that fail, die or outlive their parent."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from bids_gmvae.cli.execution import _failure
from bids_gmvae.cli.workers import WorkerPool, run_in_child
from bids_gmvae.exceptions import InputError


def end_myself():
    """Do what the kernel does to a process when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def answer():
    """Give a number."""
    return 42


def torch_is_loaded():
    """Tell whether this process has torch."""
    import sys

    return "torch" in sys.modules


def refuse():
    """Raise an error of the app."""
    raise InputError("No gradients.", "Add a bvec file.")


@pytest.fixture
def workflow(tmp_path):
    workflow = pe.Workflow("wf", base_dir=str(tmp_path))
    imports = ["import os", "import signal"]
    workflow.add_nodes(
        [
            pe.Node(Function(function=end_myself, imports=imports), name="killed"),
            pe.Node(Function(function=answer, output_names=["out"]), name="fine"),
        ]
    )
    workflow.config["execution"] = {
        "crashdump_dir": str(tmp_path),
        "crashfile_format": "txt",
        "poll_sleep_duration": "0.05",
        "create_report": "false",
    }
    return workflow


@pytest.fixture
def pool(tmp_path):
    failed = []

    def follow(node, status):
        if status == "exception":
            failed.append(node)

    pool = WorkerPool(
        {"n_procs": 1, "status_callback": follow}, log_file=tmp_path / "log", verbose=0
    )
    pool.failed = failed
    yield pool
    pool.stop()


def test_a_killed_worker_fails_its_node_and_nothing_hangs(workflow, pool, tmp_path):
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="terminated abruptly"):
        workflow.run(plugin=pool)
    assert time.monotonic() - start < 60
    assert [node.name for node in pool.failed] == ["killed"]
    failure = _failure(pool.failed[0], tmp_path)
    assert "most likely because memory ran out" in failure.message
    # The node after it got a new worker.
    assert (tmp_path / "wf" / "fine" / "result_fine.pklz").exists()


@pytest.mark.parametrize("delay", [0.01, 8.0])
def test_an_interruption_ends_a_child_at_once(delay):
    # While its process starts, and while it computes.
    code = (
        "import os, signal, threading, time\n"
        "from bids_gmvae.cli.workers import run_in_child\n"
        "def interrupt(): os.kill(os.getpid(), signal.SIGINT)\n"
        "try:\n"
        f"    threading.Timer({delay}, interrupt).start()\n"
        "    run_in_child(time.sleep, 50, log_file=None, verbose=0)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=80)
    assert done.stdout == "stopped\n", done.stderr
    # A process that is only being started may find its parent gone; Python itself reports that.
    assert "Traceback" not in done.stderr or delay < 1
    assert time.monotonic() - begin < 40


def test_a_child_answers_and_raises_like_a_call():
    assert run_in_child(torch_is_loaded, log_file=None, verbose=0)
    with pytest.raises(InputError, match="Add a bvec file"):
        run_in_child(refuse, log_file=None, verbose=0)


def test_garbage_is_not_sought_among_nodes_as_long_as_they_run(workflow, pool):
    workflow.remove_nodes([workflow.get_node("killed")])
    frozen = []
    pool._status_callback = lambda *told: frozen.append(gc.get_freeze_count())
    workflow.run(plugin=pool)
    pool.stop()
    assert min(frozen) > 0
    assert gc.get_freeze_count() == 0
