"""A watchdog: nothing waits for ever for processes that stand still."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import psutil

from bids_gmvae.exceptions import ExitCode, GMVAEError

LOGGER = logging.getLogger(__name__)

#: How often it looks until the time is over, and after how many of these looks it tells.
N_LOOKS = 12
N_SILENT = 2

#: Processor time (s) and bytes that a process may use for each process of the machine, and still
#: only wait: once between two looks of the watchdog, which lists them all, and each second if
#: Nipype's monitor runs, which looks at them all for about half as much.
IDLE_TIME = 5e-5
IDLE_BYTES = 600

#: The steps, in seconds, in which systems count processor time.
STEP = 0.01

#: In the commands of processes that Python started for this one, and in that of the one that
#: removes what others left when they died; it ends by itself.
OURS = "multiprocessing."
TRACKER = "multiprocessing.resource_tracker"

#: For how many seconds the end of this process waits until it is told.
FAREWELL = 1.0

STALLED = GMVAEError(
    "It stood still, and was ended: it neither computed, read nor wrote.",
    "See whether disks and network answer, then repeat; finished work is kept.",
)


class Watchdog:
    """Tells when the processes that this one started stand still, and ends them in the end.

    They move if one of them uses the processor, reads or writes: a long silent computation is
    never mistaken. So does this process itself while it waits for none of them. Looks are counted,
    not seconds, so that the time for which a scheduler or a laptop suspends them all with this
    process does not matter. To tell may hang, too, on the disk of the log; it keeps nothing from
    its end.

    Parameters
    ----------
    timeout : float
        Minutes after which processes that do not move are ended; 0: never.
    waiting_for : callable
        Names what they are at; gives nothing if this process waits for none of them.
    end : callable
        Ends them. If nothing comes of that, as when this process hangs itself, it ends, too.
    monitored : bool
        Whether Nipype's resource monitor runs in them, which is no movement.
    """

    def __init__(
        self,
        timeout: float,
        waiting_for: Callable[[], str],
        end: Callable[[], None],
        *,
        monitored: bool = False,
    ) -> None:
        self._timeout, self._waiting_for, self._end = timeout, waiting_for, end
        self._monitored = monitored
        self._telling: threading.Thread | None = None
        self._stopped = threading.Event()

    def __enter__(self) -> Watchdog:
        if self._timeout:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        interval = 60 * self._timeout / N_LOOKS
        before, n_still = self._used(), 0
        while not self._stopped.wait(interval):
            now = self._used()
            n_still = (
                0 if _moved(before, now, interval if self._monitored else 0.0) else n_still + 1
            )
            before = now
            if n_still == N_SILENT:
                self._telling = _tell(
                    f"{self._stillness(n_still)} Does a disk or the network not answer? After "
                    f"{_spoken(self._timeout)}, its processes are ended (--stall-timeout)."
                )
            elif n_still == N_LOOKS:
                stillness = self._stillness(n_still)
                self._end()
                self._telling = _tell(f"{stillness} Its processes are ended.")
            elif n_still == N_LOOKS + N_SILENT:
                _leave()
        if self._telling is not None:
            # As long as the log hangs, the main thread cannot log either, nor come to its end.
            self._telling.join(N_SILENT * interval)
            if self._telling.is_alive():
                _leave()

    def _used(self) -> dict[int, tuple[float, int]]:
        """Give processor time (s) and bytes read and written, of each process that may move."""
        this = psutil.Process()
        used = {}
        if not self._waiting_for():
            # To wait takes a processor, too: Nipype asks all the time which nodes are ready.
            used[this.pid] = (time.process_time() - time.thread_time(), _transferred(this))
        for process in this.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[process.pid] = (times.user + times.system, _transferred(process))
        return used

    def _stillness(self, n_still: int) -> str:
        what = self._waiting_for() or "The workflow"
        duration = _spoken(self._timeout * n_still / N_LOOKS)
        return f"{what} stands still: for {duration}, nothing was computed, read or written."


def end_workers() -> None:
    """End all workers, whatever they are doing, and even if they are stopped."""
    for child in multiprocessing.active_children():
        child.kill()


def end_descendants() -> None:
    """End all that this process started, and what is only starting.

    Others may be its children, too: a script that was replaced by the app leaves it its own.
    """
    this = psutil.Process()
    for child in this.children():
        with suppress(psutil.Error):
            command = " ".join(child.cmdline())
            # What is only starting still has the command of this process.
            if TRACKER in command or not (OURS in command or child.cmdline() == this.cmdline()):
                continue
            child.suspend()  # so that it starts no other meanwhile
            for process in (*child.children(recursive=True), child):
                process.kill()


def _tell(message: str) -> threading.Thread:
    """Log in a thread of its own, which nothing needs to wait for."""
    telling = threading.Thread(target=LOGGER.warning, args=(message,), daemon=True)
    telling.start()
    return telling


def _leave() -> None:
    """End this process with all that it started; the main thread hangs, and hears nothing."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _tell("Nothing came of it. What is finished is kept: repeat the command.").join(FAREWELL)
    os._exit(ExitCode.RUN_FAILED)


def _transferred(process: psutil.Process) -> int:
    # Not every system counts, nor lets everybody see it.
    with suppress(AttributeError, psutil.AccessDenied):
        counters = process.io_counters()
        return counters.read_chars + counters.write_chars
    return 0


def _moved(
    before: dict[int, tuple[float, int]],
    now: dict[int, tuple[float, int]],
    monitored: float,
) -> bool:
    """Tell whether more was used than processes need that wait, and are monitored for so long."""
    if before.keys() != now.keys():
        return True
    # The resource monitor may look at the begin of a short interval, too; so does the watchdog.
    n_looks = (1 + monitored) * len(psutil.pids())
    return any(
        now[pid][0] - seconds > IDLE_TIME * n_looks + STEP
        or now[pid][1] - transferred > IDLE_BYTES * n_looks
        for pid, (seconds, transferred) in before.items()
    )


def _spoken(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes >= 2 else f"{60 * minutes:.1f} s"
