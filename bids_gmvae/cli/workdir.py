"""The work directory: one process per participant."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bids_gmvae.exceptions import StorageError
from bids_gmvae.io.atomic import storage_errors
from bids_gmvae.workflows.base import NAME


@contextmanager
def claimed(work_dir: Path, subjects: Iterable[str]) -> Iterator[None]:
    """Keep other processes from computing the same participants in the same folder.

    Nipype's nodes would overwrite each other's files. The system takes the claim back when this
    process ends, however it ends.

    Parameters
    ----------
    work_dir : Path
        The folder.
    subjects : iterable of str
        Labels of the participants.

    Raises
    ------
    StorageError
        If another process is at it, or the folder cannot be written.
    """
    lock = work_dir / NAME / ".lock"
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        for subject in subjects:
            # One byte of one file for each: thousands of open files would be too many.
            byte = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:6])
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError) as error:
                raise StorageError(
                    f"Another process computes sub-{subject} in the work directory {work_dir}.",
                    "Wait for its end, or give another folder with -w.",
                ) from error
            except OSError:
                break  # a network file system without locks
        yield
