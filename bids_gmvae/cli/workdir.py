"""The work directory: one process per participant or prior, and none while it is emptied."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bids_gmvae.exceptions import StorageError
from bids_gmvae.io.atomic import storage_errors
from bids_gmvae.workflows.base import NAME

LOGGER = logging.getLogger(__name__)

#: Folder of the group level's priors, beside that of the participants.
PRIORS = "gmvae_prior"

#: How the names of folders begin that are being removed.
REMOVED = f"{NAME}_removed-"

#: How often the lock file may vanish while it is taken.
TRIES = 100


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
    refusal = "Another process computes {} in the work directory {}."
    with _locked(work_dir, {_byte(item): refusal.format(item, work_dir) for item in items}):
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
    whole_file = (0, 0)
    refusal = f"Another process computes in {work_dir}, which cannot be emptied."
    with _locked(work_dir, {whole_file: refusal}):
        # Removing takes long; renamed, they are nobody's, and others start anew. The last one
        # takes the lock file with it.
        for name in (*more, PRIORS, NAME):
            with _telling_what_stays():
                (work_dir / name).rename(work_dir / f"{REMOVED}{uuid.uuid4().hex[:8]}")
    for folder in work_dir.glob(f"{REMOVED}*"):  # those of a killed process, too
        shutil.rmtree(folder, ignore_errors=True)
        with _telling_what_stays():
            shutil.rmtree(folder)


def _byte(item: str) -> tuple[int, int]:
    # One byte of one file for each: thousands of open files would be too many.
    return 1, int.from_bytes(hashlib.sha256(item.encode()).digest()[:6])


@contextmanager
def _telling_what_stays() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        LOGGER.debug("Nothing to remove: %s", error)
    except OSError as error:
        LOGGER.warning("The work directory could not be emptied: %s", error)


@contextmanager
def _locked(work_dir: Path, refusals: Mapping[tuple[int, int], str]) -> Iterator[None]:
    """Lock parts of the lock file, by length and start, or refuse with their messages."""
    path = work_dir / NAME / ".lock"
    for _ in range(TRIES):
        try:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a")
        except (FileExistsError, FileNotFoundError):
            continue  # its folder was removed meanwhile
        with file:
            for (length, start), refusal in refusals.items():
                _lock(file, length, start, refusal)
            if _is_at(path, file):
                yield
                return
    raise StorageError(f"{path} cannot be made.", "Give another folder with -w.")


def _is_at(path: Path, file: IO[str]) -> bool:
    """Tell whether an open file is still what others find; if not, its locks are worth nothing."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[str], length: int, start: int, message: str) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError) as error:
        raise StorageError(message, "Wait for its end, or give another folder with -w.") from error
    except OSError as error:
        LOGGER.debug("A file system without locks: %s", error)
