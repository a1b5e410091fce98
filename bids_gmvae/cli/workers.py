"""Processes that compute, and a child for one call."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

from bids_gmvae.cli.logs import configure_logging
from bids_gmvae.cli.signals import held
from bids_gmvae.cli.watchdog import STALLED, Watchdog, end_workers
from bids_gmvae.config import ExecutionSettings
from bids_gmvae.exceptions import GMVAEError

T = TypeVar("T")

KILLED = GMVAEError(
    "A worker process was killed, most likely because memory ran out.",
    "Give more memory, or use fewer --nprocs; finished work is kept.",
)

#: For how long a server that was killed may take to end, in seconds.
LAST_BREATH = 60.0

#: Modules that do nothing but import what children need.
PRELOAD = "bids_gmvae.cli.preload"
PRELOAD_REPORTS = "bids_gmvae.cli.preload_reports"


class Child(ForkServerProcess):
    """A child that is started even while the server it would be forked from is being ended."""

    def start(self) -> None:
        """Start it; again, as long as the server is not gone but accepts nothing any more.

        Raises
        ------
        GMVAEError
            If the server is killed meanwhile.
        """
        deadline = time.monotonic() + LAST_BREATH
        while True:
            _ensure_server()
            try:
                return super().start()
            except ConnectionError:
                # A killed process closes its sockets before its parent can see that it ended.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            except EOFError as error:
                # It died with the request; perhaps of what it imports, as it would again.
                raise KILLED from error


class ChildContext(ForkServerContext):
    """The way to start a `Child`."""

    Process = Child


def start_server(*, reports: bool) -> None:
    """Start the server that children are forked from: it imports while this process goes on.

    Parameters
    ----------
    reports : bool
        Whether children will draw figures and write pages.
    """
    if _has_server():
        _ensure_server([PRELOAD, *([PRELOAD_REPORTS] if reports else [])])


def process_context() -> BaseContext:
    """Give the way to start children: never a plain fork, which deadlocks once torch has run."""
    return ChildContext() if _has_server() else multiprocessing.get_context("spawn")


def _has_server() -> bool:
    return "forkserver" in multiprocessing.get_all_start_methods()


def _ensure_server(preload: Sequence[str] = (PRELOAD,)) -> None:
    """Start the server if there is none that lives."""
    forkserver.set_forkserver_preload(list(preload))
    # Python unblocks Ctrl-C when it starts this one, which comes before the server.
    resource_tracker.ensure_running()
    # Ctrl-C reaches the whole process group; the parent decides and ends the others.
    with held(signal.SIGINT):
        forkserver.ensure_running()


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
    from bids_gmvae.interfaces.progress import LINE_VARIABLE

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
