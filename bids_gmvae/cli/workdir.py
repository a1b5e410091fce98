"""The work directory: one process per participant."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bids_gmvae.exceptions import StorageError
from bids_gmvae.io.atomic import storage_errors
from bids_gmvae.workflows.base import NAME
from bids_gmvae.workflows.plan import node_name


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
    folder = work_dir / NAME
    with ExitStack() as stack:
        for subject in subjects:
            lock = folder / f".{node_name(f'sub_{subject}')}.lock"
            with storage_errors(lock):
                folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(lock.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StorageError(
                    f"Another process computes sub-{subject} in the work directory {work_dir}.",
                    "Wait for its end, or give another folder with -w.",
                ) from error
            except OSError:
                continue  # a network file system without locks
        yield
