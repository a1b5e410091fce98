"""One process per participant or prior, and none in a work directory while it is emptied."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
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

#: Within the folder that it is about.
LOCK = ".lock"

OTHER_WORK_DIR = "another folder with -w"

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
        If another process is at it, or the folder cannot be written, or is somebody else's.
    """
    refusal = "Another process computes {} in the work directory {}."
    refusals = {_byte(item): refusal.format(item, work_dir) for item in items}
    with _locked(work_dir / NAME / LOCK, refusals, OTHER_WORK_DIR):
        _require_own(work_dir / NAME)
        yield


@contextmanager
def claimed_outputs(out_dir: Path, items: Iterable[str]) -> Iterator[None]:
    """Keep other processes from writing files of the same participants, as from other settings.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    items : iterable of str
        Participants as the user is told, e.g. ``sub-01``.

    Raises
    ------
    StorageError
        If another process is at it, or the folder cannot be written.
    """
    refusals = {_byte(item): f"Another process maps {item} into {out_dir}." for item in items}
    with _locked(out_dir / "logs" / LOCK, refusals, "another OUTPUT_DIR"):
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
    with _locked(work_dir / NAME / LOCK, {whole_file: refusal}, OTHER_WORK_DIR):
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


def _require_own(folder: Path) -> None:
    """Refuse a folder of another user: to read what Nipype left there is to run it."""
    # Who makes a file need not be who this process thinks it is, as on network file systems.
    with storage_errors(folder), tempfile.TemporaryFile(dir=folder) as probe:
        mine = os.fstat(probe.fileno()).st_uid
    owner = folder.stat().st_uid
    if owner != mine:
        raise StorageError(
            f"{folder} must belong to who runs the app (user {mine}), but is of user {owner}.",
            f"Give {OTHER_WORK_DIR}.",
        )


@contextmanager
def _locked(path: Path, refusals: Mapping[tuple[int, int], str], otherwise: str) -> Iterator[None]:
    """Lock parts of the lock file, by length and start, or refuse with their messages."""
    for _ in range(TRIES):
        try:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a")
        except (FileExistsError, FileNotFoundError):
            continue  # its folder was removed meanwhile
        with file:
            for (length, start), refusal in refusals.items():
                _lock(file, length, start, refusal, otherwise)
            if _is_at(path, file):
                yield
                return
    raise StorageError(f"{path} cannot be made.", f"Give {otherwise}.")


def _is_at(path: Path, file: IO[str]) -> bool:
    """Tell whether an open file is still what others find; if not, its locks are worth nothing."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[str], length: int, start: int, message: str, otherwise: str) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError) as error:
        raise StorageError(message, f"Wait for its end, or give {otherwise}.") from error
    except OSError as error:
        LOGGER.debug("A file system without locks: %s", error)
