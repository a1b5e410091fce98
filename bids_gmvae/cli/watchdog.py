"""A watchdog: nothing waits for ever for processes that stand still."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import psutil

from bids_gmvae.exceptions import ExitCode, GMVAEError

LOGGER = logging.getLogger(__name__)

#: How often it looks until the time is over, and after how many of these looks it tells.
N_LOOKS = 60
N_SILENT = 10

#: Processor time, in seconds, that a process may use and still be one that only waits.
IDLE = 0.1

STALLED = GMVAEError(
    "It stood still, and was ended: it used no processor time, and neither read nor wrote.",
    "See whether disks and network answer, then repeat; finished work is kept.",
)


class Watchdog:
    """Tells when the processes that this one started stand still, and ends them in the end.

    They move if one of them uses the processor, reads or writes: a long silent computation is
    never mistaken. Looks are counted, not seconds, so that the time for which a scheduler or a
    laptop suspends them all with this process does not matter.

    Parameters
    ----------
    timeout : float
        Minutes after which processes that do not move are ended; 0: never.
    waiting_for : callable
        Names what they are at.
    end : callable
        Ends them. If nothing comes of that, as when this process hangs itself, it ends, too.
    """

    def __init__(
        self, timeout: float, waiting_for: Callable[[], str], end: Callable[[], None]
    ) -> None:
        self._timeout, self._waiting_for, self._end = timeout, waiting_for, end
        self._still = 0
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

    def beat(self) -> None:
        """Take note that this process itself came further."""
        self._still = 0

    def _watch(self) -> None:
        before = _used()
        while not self._stopped.wait(60 * self._timeout / N_LOOKS):
            now = _used()
            if _moved(before, now):
                before, self._still = now, 0
                continue
            self._still += 1
            if self._still == N_SILENT:
                self._tell(
                    "Does a disk or the network not answer? After "
                    f"{_spoken(self._timeout)} its processes are ended (--stall-timeout)."
                )
            elif self._still == N_LOOKS:
                self._tell("Its processes are ended.")
                self._end()
            elif self._still == N_LOOKS + N_SILENT:
                self._leave()

    def _tell(self, consequence: str) -> None:
        LOGGER.warning(
            "%s stands still: for %s, no processor time was used, and nothing read or written. %s",
            self._waiting_for(),
            _spoken(self._timeout * self._still / N_LOOKS),
            consequence,
        )

    def _leave(self) -> None:
        LOGGER.error("Nothing came of it. What is finished is kept: repeat the command.")
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        # The main thread hangs; no exception reaches it.
        os._exit(ExitCode.RUN_FAILED)


def end_workers() -> None:
    """End all workers, whatever they are doing, and even if they are stopped."""
    for child in multiprocessing.active_children():
        child.kill()


def _used() -> dict[int, tuple[float, int]]:
    """Give processor time (s) and bytes read and written, of all processes below this one."""
    used = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[process.pid] = (times.user + times.system, _transferred(process))
    return used


def _transferred(process: psutil.Process) -> int:
    # Not every system counts, nor lets everybody see it.
    with suppress(AttributeError, psutil.AccessDenied):
        counters = process.io_counters()
        return counters.read_chars + counters.write_chars
    return 0


def _moved(before: dict[int, tuple[float, int]], now: dict[int, tuple[float, int]]) -> bool:
    return before.keys() != now.keys() or any(
        now[pid][0] > seconds + IDLE or now[pid][1] != transferred
        for pid, (seconds, transferred) in before.items()
    )


def _spoken(minutes: float) -> str:
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{60 * minutes:.0f} seconds"
