"""The work directory: one process per participant or prior, and none while it is emptied."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bids_gmvae.exceptions import StorageError
from bids_gmvae.io.atomic import storage_errors
from bids_gmvae.workflows.base import NAME

LOGGER = logging.getLogger(__name__)

#: Folder of the group level's priors, beside that of the participants.
PRIORS = "gmvae_prior"


@contextmanager
def claimed(work_dir: Path, items: Iterable[str]) -> Iterator[None]:
    """Keep other processes from computing the same in the same folder.

    Nipype's nodes would overwrite each other's files. The system takes the claim back when this
    process ends, however it ends.

    Parameters
    ----------
    work_dir : Path
        The folder.
    items : iterable of str
        What is computed, as the user is told, e.g. ``sub-01``.

    Raises
    ------
    StorageError
        If another process is at it, or the folder cannot be written.
    """
    with _lock_file(work_dir) as file:
        for item in items:
            # One byte of one file for each: thousands of open files would be too many.
            byte = int.from_bytes(hashlib.sha256(item.encode()).digest()[:6])
            _lock(
                file, 1, byte, f"Another process computes {item} in the work directory {work_dir}."
            )
        yield


def clean(work_dir: Path, *more: str) -> None:
    """Remove what this app made and nothing else: the folder may be somebody's scratch.

    Parameters
    ----------
    work_dir : Path
        The folder.
    *more : str
        Names of other folders in it to remove.

    Raises
    ------
    StorageError
        If another process computes anything there.
    """
    with _lock_file(work_dir) as file:
        # The whole file, however long.
        _lock(file, 0, 0, f"Another process computes in {work_dir}, which cannot be emptied.")
        for name in (NAME, PRIORS, *more):
            shutil.rmtree(work_dir / name, ignore_errors=True)


@contextmanager
def _lock_file(work_dir: Path) -> Iterator[IO[str]]:
    path = work_dir / NAME / ".lock"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        yield file


def _lock(file: IO[str], length: int, start: int, message: str) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError) as error:
        raise StorageError(message, "Wait for its end, or give another folder with -w.") from error
    except OSError as error:
        LOGGER.debug("A file system without locks: %s", error)
