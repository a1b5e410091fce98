"""The pool of workers that runs the nodes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from operator import attrgetter
from pathlib import Path
from traceback import format_exception
from typing import Any

from nipype.pipeline.engine import Node
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from bids_gmvae.cli.watchdog import STALLED, Watchdog, end_workers
from bids_gmvae.cli.workers import end_children, process_context, start_worker
from bids_gmvae.config import ExecutionSettings


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
