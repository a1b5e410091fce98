"""Processes that compute: a child for one call, and the pool that runs the nodes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from traceback import format_exception
from typing import Any, TypeVar

from nipype.pipeline.engine import Node
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from bids_gmvae.cli.logs import configure_logging
from bids_gmvae.interfaces.progress import LINE_VARIABLE

T = TypeVar("T")

#: Imported once by the server that all children are forked from; no thread is started by it.
PRELOAD = ["torch", "nibabel", "bids_gmvae.interfaces"]


def process_context() -> BaseContext:
    """Give the way to start children: never a plain fork, which deadlocks once torch has run."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def run_in_child(
    function: Callable[..., T], *args: Any, log_file: Path | None, verbose: int, **kwargs: Any
) -> T:
    """Call a function in a process of its own, which may import torch.

    Parameters
    ----------
    function : callable
        Importable by name.
    *args, **kwargs
        Its arguments.
    log_file, verbose
        For the messages of the child.
    """
    start = partial(start_worker, log_file, verbose)
    with ProcessPoolExecutor(1, mp_context=process_context(), initializer=start) as pool:
        try:
            return pool.submit(partial(function, *args, **kwargs)).result()
        except KeyboardInterrupt:
            # Else leaving the pool waits for the call to end.
            end_children(pool)
            raise


def end_children(pool: ProcessPoolExecutor) -> None:
    """End all workers at once, whatever they are doing."""
    pool.shutdown(wait=False, cancel_futures=True)
    for child in multiprocessing.active_children():
        child.terminate()


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
    # Ctrl-C reaches the whole process group; the parent decides and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    # A worker whose parent was killed would go on, and write beside the next call of the app.
    parent.join()
    os._exit(1)


class WorkerPool(MultiProcPlugin):
    """Nipype's MultiProc, for workers that may be killed.

    The original waits for ever for a node whose process is gone, as when memory runs out.
    """

    def __init__(self, plugin_args: dict[str, Any], *, log_file: Path, verbose: int) -> None:
        super().__init__(plugin_args=plugin_args)
        self._log_file, self._verbose = log_file, verbose
        self.pool: ProcessPoolExecutor = self._new_pool()

    def stop(self) -> None:
        """End all workers at once."""
        end_children(self.pool)
        gc.unfreeze()

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
        try:
            future = self.pool.submit(task)
        except BrokenProcessPool:
            self.pool = self._new_pool()
            future = self.pool.submit(task)
        self._task_obj[self._taskid] = future
        future.add_done_callback(partial(self._note_result, self._taskid))
        return self._taskid

    def _note_result(self, taskid: int, future: Future) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._taskresult[taskid] = future.result()
        else:
            self._taskresult[taskid] = {
                "result": None,
                "traceback": format_exception(error),
                "taskid": taskid,
            }
