"""Processes that compute: a child for one call, and the pool that runs the nodes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from operator import attrgetter
from pathlib import Path
from traceback import format_exception
from typing import Any, TypeVar

from nipype.pipeline.engine import Node
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from bids_gmvae.cli.logs import configure_logging
from bids_gmvae.cli.signals import held
from bids_gmvae.cli.watchdog import STALLED, Watchdog, end_workers
from bids_gmvae.config import ExecutionSettings
from bids_gmvae.exceptions import GMVAEError
from bids_gmvae.interfaces.progress import LINE_VARIABLE

T = TypeVar("T")

#: Imported once by the server that all children are forked from; no thread is started by it.
PRELOAD = ["torch", "nibabel", "bids_gmvae.interfaces"]

KILLED = GMVAEError(
    "A worker process was killed, most likely because memory ran out.",
    "Give more memory, or use fewer --nprocs; finished work is kept.",
)


#: For how long a server that was killed may take to end, in seconds.
LAST_BREATH = 60.0


class Child(ForkServerProcess):
    """A child that is started even while the server it would be forked from is being ended."""

    def start(self) -> None:
        """Start it; again, as long as the server is not gone but accepts nothing any more."""
        deadline = time.monotonic() + LAST_BREATH
        while True:
            # Ctrl-C reaches the whole process group; the parent decides and ends the others.
            with held(signal.SIGINT):
                forkserver.ensure_running()
            try:
                return super().start()
            except ConnectionError:
                # A killed process closes its sockets before its parent can see that it ended.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


class ChildContext(ForkServerContext):
    """The way to start a `Child`."""

    Process = Child


def process_context() -> BaseContext:
    """Give the way to start children: never a plain fork, which deadlocks once torch has run."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = ChildContext()
    context.set_forkserver_preload(PRELOAD)
    return context


def run_in_child(
    function: Callable[..., T],
    *args: Any,
    execution: ExecutionSettings,
    log_file: Path | None = None,
    **kwargs: Any,
) -> T:
    """Call a function in a process of its own, which may import torch.

    Parameters
    ----------
    function : callable
        Importable by name.
    *args, **kwargs
        Its arguments.
    execution : ExecutionSettings
        How much the child tells, and for how long it may stand still.
    log_file : Path, optional
        For the messages of the child.

    Raises
    ------
    GMVAEError
        If the child is killed, or stands still.
    """
    stalled = threading.Event()

    def end() -> None:
        stalled.set()
        end_workers()

    start = partial(start_worker, log_file, execution.verbose)
    step = function.__name__.strip("_").replace("_", " ")
    with (
        Watchdog(
            execution.stall_timeout,
            lambda: f"'{step}'",
            end,
            monitored=execution.resource_monitor,
        ),
        ProcessPoolExecutor(1, mp_context=process_context(), initializer=start) as pool,
    ):
        try:
            return pool.submit(partial(function, *args, **kwargs)).result()
        except KeyboardInterrupt:
            # Else leaving the pool waits for the call to end.
            end_children(pool)
            raise
        except BrokenProcessPool as error:
            raise (STALLED if stalled.is_set() else KILLED) from error


def end_children(pool: ProcessPoolExecutor) -> None:
    """End a pool and all workers at once, whatever they are doing."""
    # First: where one was killed already, the pool waits for the others under its lock.
    end_workers()
    pool.shutdown(wait=False, cancel_futures=True)


def start_worker(log_file: Path | None, verbose: int, started: Any = None) -> None:
    """Prepare a worker: messages, no interruption of its own, and an end with its parent.

    Parameters
    ----------
    log_file, verbose
        For its messages.
    started : multiprocessing.Value, optional
        How many workers the pool has started; gives each its own line for a progress bar.
    """
    configure_logging(log_file, verbose=verbose)
    if started is not None:
        with started.get_lock():
            os.environ[LINE_VARIABLE] = str(started.value)
            started.value += 1
    # Where children are spawned, nothing else keeps Ctrl-C from them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    # A worker whose parent was killed would go on, and write beside the next call of the app.
    parent.join()
    os._exit(1)


class WorkerPool(MultiProcPlugin):
    """Nipype's MultiProc, for workers that may be killed or stand still.

    The original waits for ever for a node whose process is gone, as when memory runs out. If
    workers stand still twice and no node ends in between, nothing more is begun.

    Parameters
    ----------
    plugin_args : dict
        See `MultiProcPlugin`.
    execution : ExecutionSettings
        How much the workers tell, and for how long they may stand still.
    log_file : Path
        For their messages.
    title : callable, optional
        Names a node to the user.
    """

    def __init__(
        self,
        plugin_args: dict[str, Any],
        *,
        execution: ExecutionSettings,
        log_file: Path,
        title: Callable[[Node], str] = attrgetter("name"),
    ) -> None:
        super().__init__(plugin_args=plugin_args)
        self._log_file, self._verbose, self._title = log_file, execution.verbose, title
        self._running: dict[int, Node] = {}
        self._stalled: set[int] = set()
        self._n_stalls = 0
        self.pool: ProcessPoolExecutor = self._new_pool()
        self._watchdog = Watchdog(
            execution.stall_timeout,
            self._titles,
            self._end_stalled,
            monitored=execution.resource_monitor,
        )

    def __enter__(self) -> WorkerPool:
        self._watchdog.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        """End all workers at once."""
        end_children(self.pool)
        gc.unfreeze()
        self._watchdog.__exit__(*raised)

    def _titles(self) -> str:
        titles = map(self._title, self._running.copy().values())
        return "; ".join(dict.fromkeys(titles))

    def _end_stalled(self) -> None:
        self._n_stalls += 1
        self._stalled.update(self._running.copy())
        end_workers()

    def _prerun_check(self, graph: Any) -> None:
        super()._prerun_check(graph)
        # Nipype collects garbage ten times a second. To look through the nodes of 200 participants
        # each time would take half a core.
        gc.freeze()

    def _new_pool(self) -> ProcessPoolExecutor:
        context = process_context()
        return ProcessPoolExecutor(
            self.processors,
            mp_context=context,
            initializer=start_worker,
            initargs=(self._log_file, self._verbose, context.Value("i", 0)),
        )

    def _submit_job(self, node: Node, updatehash: bool = False) -> int:
        self._taskid += 1
        task = partial(run_node, node, updatehash, self._taskid)
        if self._n_stalls > 1:
            # Else every further node would wait for the same disk, for as long.
            self._fail(self._taskid, STALLED)
            return self._taskid
        self._running[self._taskid] = node
        try:
            future = self.pool.submit(task)
        except BrokenProcessPool:
            self.pool = self._new_pool()
            future = self.pool.submit(task)
        future.add_done_callback(partial(self._note_result, self._taskid))
        return self._taskid

    def _clear_task(self, taskid: int) -> None:
        del self._taskresult[taskid]

    def _note_result(self, taskid: int, future: Future) -> None:
        del self._running[taskid]
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._n_stalls = 0
            self._taskresult[taskid] = future.result()
        else:
            self._fail(taskid, STALLED if taskid in self._stalled else error)

    def _fail(self, taskid: int, error: BaseException) -> None:
        self._taskresult[taskid] = {
            "result": None,
            "traceback": format_exception(error),
            "taskid": taskid,
        }
