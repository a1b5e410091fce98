"""Workers that fail, die or outlive their parent."""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from bids_gmvae.cli.failures import find_crash_files, find_failure
from bids_gmvae.cli.pool import WorkerPool
from bids_gmvae.cli.workers import run_in_child
from bids_gmvae.config import ExecutionSettings
from bids_gmvae.exceptions import GMVAEError, InputError
from tests.cli.test_watchdog import IMPATIENT


def end_myself():
    """Do what the kernel does to a process when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def end_my_server():
    """Kill the process that children are forked from."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def begin_and_stop():
    """Say that it began, and do nothing any more."""
    with open("began", "w"):
        os.kill(os.getpid(), signal.SIGSTOP)


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

    with WorkerPool(
        {"n_procs": 1, "status_callback": follow},
        execution=ExecutionSettings(),
        log_file=tmp_path / "log",
    ) as pool:
        pool.failed = failed
        yield pool


def test_a_killed_worker_fails_its_node_and_nothing_hangs(workflow, pool, tmp_path):
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="terminated abruptly"):
        workflow.run(plugin=pool)
    assert time.monotonic() - start < 60
    assert [node.name for node in pool.failed] == ["killed"]
    failure = find_failure(pool.failed[0], find_crash_files(tmp_path)[pool.failed[0].fullname])
    assert "most likely because memory ran out" in failure.message
    # The node after it got a new worker.
    assert (tmp_path / "wf" / "fine" / "result_fine.pklz").exists()


def test_no_node_is_begun_after_two_stalls_without_the_end_of_a_node_between(workflow, tmp_path):
    imports = ["import os", "import signal"]
    workflow.remove_nodes([workflow.get_node("killed"), workflow.get_node("fine")])
    for name in ("stop_1", "end_2", "stop_3", "stop_4", "end_5"):
        function = answer if name.startswith("end") else begin_and_stop
        workflow.add_nodes([pe.Node(Function(function=function, imports=imports), name=name)])
    failed = {}

    def follow(node, status):
        if status == "exception":
            failed[node.name] = node

    options = {"n_procs": 1, "status_callback": follow}
    with (
        pytest.raises(RuntimeError, match="4 raised"),
        WorkerPool(options, execution=IMPATIENT, log_file=tmp_path / "log") as pool,
    ):
        workflow.run(plugin=pool)
    assert list(failed) == ["stop_1", "stop_3", "stop_4", "end_5"]
    crash_files = find_crash_files(tmp_path)
    for node in failed.values():
        failure = find_failure(node, crash_files[node.fullname])
        assert "It stood still, and was ended" in failure.message
    begun = {path.parent.name for path in tmp_path.glob("wf/*/began")}
    assert begun == {"stop_1", "stop_3", "stop_4"}
    results = {path.parent.name for path in tmp_path.glob("wf/*/result_*.pklz")}
    assert results == {"end_2"}


@pytest.mark.parametrize("delay", [0.01, 8.0])
def test_an_interruption_ends_a_child_at_once(delay):
    # While its process starts, and while it computes.
    code = (
        "import os, signal, threading, time\n"
        "from bids_gmvae.cli.workers import run_in_child\n"
        "from bids_gmvae.config import ExecutionSettings\n"
        "def interrupt(): os.kill(os.getpid(), signal.SIGINT)\n"
        "try:\n"
        f"    threading.Timer({delay}, interrupt).start()\n"
        "    run_in_child(time.sleep, 50, execution=ExecutionSettings())\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=80)
    assert done.stdout == "stopped\n", done.stderr
    # A process that is only being started may find its parent gone; `end_descendants` is called
    # by the command.
    assert "Traceback" not in done.stderr or delay < 1
    assert time.monotonic() - begin < 40


def test_the_server_is_started_without_ctrl_c():
    # The first of all: whatever else Python starts before it must not matter.
    code = (
        "import signal\n"
        "from multiprocessing import forkserver\n"
        "from bids_gmvae.cli.workers import start_server\n"
        "start_server(reports=True)\n"
        "server = forkserver._forkserver._forkserver_pid\n"
        "status = dict(line.split(':', 1) for line in open(f'/proc/{server}/status'))\n"
        "print(bool(int(status['SigBlk'], 16) & 1 << signal.SIGINT - 1))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=80)
    assert done.stdout == "True\n", done.stderr


def test_a_server_that_is_killed_while_it_imports_is_told():
    code = (
        "import os, signal\n"
        "from multiprocessing import forkserver\n"
        "from bids_gmvae.cli.workers import run_in_child, start_server\n"
        "from bids_gmvae.config import ExecutionSettings\n"
        "from bids_gmvae.exceptions import GMVAEError\n"
        "start_server(reports=True)\n"
        "server = forkserver._forkserver._forkserver_pid\n"
        "os.kill(server, signal.SIGSTOP)\n"  # it imports for as long as we want
        "wait = forkserver.read_signed\n"
        "def kill_and_wait(answer):\n"
        "    os.kill(server, signal.SIGKILL)\n"
        "    return wait(answer)\n"
        "forkserver.read_signed = kill_and_wait\n"
        "try:\n"
        "    run_in_child(os.getpid, execution=ExecutionSettings())\n"
        "except GMVAEError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=80)
    assert done.stdout.startswith("A worker process was killed"), done.stderr


def test_what_cannot_be_imported_beforehand_keeps_nothing_from_its_work(tmp_path):
    (tmp_path / "broken.py").write_text("raise ValueError('a setting of the user')")
    code = (
        "import gc, os, sys, threading, time\n"
        "from bids_gmvae.cli.preload import preload\n"
        "assert 'torch' in sys.modules and 'matplotlib' not in sys.modules\n"
        "preload(['broken', 'missing', 'colorsys'])\n"
        "assert 'colorsys' in sys.modules and gc.isenabled()\n"
        "import bids_gmvae.cli.preload_reports\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "time.sleep(0.5)\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    cache = (
        tmp_path / "fonts"
    )  # matplotlib looks for them, and tells that it does if it takes long
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MPLCONFIGDIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=80, env=environment
    )
    assert done.stdout == "1\n", done.stderr


def test_a_server_ends_while_it_imports_if_its_command_is_gone():
    code = (
        "from bids_gmvae.cli import preload\n"
        "preload.preload(['colorsys'])\n"
        "print('as long as it is there')\n"
        "preload.COMMAND = -1\n"
        "preload.preload(['colorsys'])\n"
        "print('on and on')\n"
    )
    command = [sys.executable, "-u", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80)
    assert (done.returncode, done.stdout) == (1, "as long as it is there\n"), done.stderr


def test_children_that_somebody_else_started_live_on():
    code = (
        "import psutil, subprocess, sys, time\n"
        "from bids_gmvae.cli.watchdog import end_descendants\n"
        "from bids_gmvae.cli.workers import start_server\n"
        "other = subprocess.Popen(['sleep', '60'])\n"
        "start_server(reports=False)\n"
        "end_descendants()\n"
        "time.sleep(0.5)\n"
        "for child in psutil.Process().children():\n"
        "    if child.status() != psutil.STATUS_ZOMBIE:\n"
        "        print('tracker' if 'tracker' in ' '.join(child.cmdline()) else child.name())\n"
        "other.kill()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=80)
    assert set(done.stdout.split()) == {"sleep", "tracker"}, done.stderr


def test_a_child_answers_and_raises_like_a_call():
    assert run_in_child(torch_is_loaded, execution=ExecutionSettings())
    with pytest.raises(InputError, match="Add a bvec file"):
        run_in_child(refuse, execution=ExecutionSettings())


def test_a_child_that_is_killed_is_told_in_plain_words():
    with pytest.raises(GMVAEError, match="A worker process was killed, most likely because"):
        run_in_child(end_myself, execution=ExecutionSettings())


def test_the_end_of_the_server_is_told_and_the_next_child_has_a_new_one():
    with pytest.raises(GMVAEError, match="A worker process was killed"):
        run_in_child(end_my_server, execution=ExecutionSettings())
    assert run_in_child(answer, execution=ExecutionSettings()) == 42


def test_a_child_is_started_while_its_server_is_ending(tmp_path):
    run_in_child(answer, execution=ExecutionSettings())
    server = forkserver._forkserver
    # As a process that is being killed: it is there, but has closed its sockets.
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp_path / "closed"))
    server._forkserver_address = str(tmp_path / "closed")
    threading.Timer(0.5, os.kill, (server._forkserver_pid, signal.SIGKILL)).start()
    assert run_in_child(answer, execution=ExecutionSettings()) == 42


def test_garbage_is_not_sought_among_nodes_as_long_as_they_run(workflow, pool):
    workflow.remove_nodes([workflow.get_node("killed")])
    frozen = []
    pool._status_callback = lambda *told: frozen.append(gc.get_freeze_count())
    workflow.run(plugin=pool)
    pool.__exit__(None, None, None)
    assert min(frozen) > 0
    assert gc.get_freeze_count() == 0
