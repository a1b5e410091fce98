"""Where messages go: a few to the console, all to a file."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path

#: Name of the log within the folder of a call.
LOG_FILE = "bids_gmvae.log"

#: What is shown on the console, by number of ``-v``.
LEVELS = (logging.INFO, logging.DEBUG)


class LogFile(logging.FileHandler):
    """A log file that does without what it cannot write.

    When the disk is full, the console has a better sentence about it than a traceback per line.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message; the file is opened by the first, which may fail as well."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the message if the file cannot take it."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, whether or not its last lines can still be written."""
        with suppress(OSError):
            super().close()


def say(text: str) -> None:
    """Write to the standard output; whoever reads it may stop early, as ``head`` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Else Python complains once more, when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def new_run_uuid() -> str:
    """Name a call of the app: its start, and a random part."""
    return f"{datetime.now():%Y%m%d-%H%M%S}_{uuid.uuid4()}"


def configure_logging(log_file: Path | None, *, verbose: int = 0) -> None:
    """Send the messages of the app, of Nipype and of warnings to console and file.

    Parameters
    ----------
    log_file : Path or None
        Everything is appended to it; several processes may share it.
    verbose : int
        Number of ``-v``: from 1 on, Nipype's messages are shown as well.
    """
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter("%(message)s"))
    console.setLevel(LEVELS[min(verbose, 2) // 2])
    handlers: list[logging.Handler] = []
    if log_file is not None:
        file = LogFile(log_file, encoding="utf-8", delay=True)
        file.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
        )
        handlers.append(file)
    logging.captureWarnings(True)
    for name in ("bids_gmvae", "nipype", "py.warnings"):
        shown = name == "bids_gmvae" or verbose
        _attach(logging.getLogger(name), [*handlers, *([console] if shown else [])])
    # What it repairs in a header, or cannot, the checks tell with the name of the file.
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    # Nipype sets levels on its own loggers when it is imported, and again for each workflow.
    for name in ("nipype.workflow", "nipype.interface", "nipype.utils"):
        logging.getLogger(name).handlers.clear()


def _attach(logger: logging.Logger, handlers: list[logging.Handler]) -> None:
    for old in logger.handlers:
        old.close()
    logger.handlers[:] = handlers or [logging.NullHandler()]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
