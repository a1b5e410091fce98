"""Files that are complete under their name or not there at all, and the lock they share."""

from __future__ import annotations

import csv
import errno
import fcntl
import gzip
import io
import json
import logging
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import nibabel as nb

from bids_gmvae.exceptions import GMVAEError, StorageError

LOGGER = logging.getLogger(__name__)

#: How the names of unfinished files begin; they are hidden and keep their extension.
TEMPORARY = ".tmp-"

#: Written for absent values in tables, as BIDS wants.
NOT_AVAILABLE = "n/a"

#: Seconds to wait for other processes: hundreds may queue, and each holds the lock for about one.
PATIENCE = 900.0

#: Seconds after which the log says what is waited for.
SILENCE = 30.0

#: Longest pause between two tries, seconds; thousands of processes ask the same server.
PAUSE = 0.5

#: How file systems say that they have no locks.
_LOCKLESS = frozenset((errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS))

_STORAGE_ERRORS = {
    errno.ENOSPC: "There is no space left for {path}.",
    errno.EDQUOT: "The disk quota is used up; {path} was not written.",
    errno.EACCES: "Writing {path} is not permitted.",
    errno.EPERM: "Writing {path} is not permitted.",
    errno.EROFS: "The file system of {path} is read-only.",
}

#: Below this many free bytes, an unspecific writing error is put down to a full disk.
_FULL = 1 << 20


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn errors about space, quota and permission into `StorageError`.

    Parameters
    ----------
    path : Path
        What is being written; named in the message.

    Raises
    ------
    StorageError
        If the block fails for want of space, quota or permission.
    """
    hint = "Free space or choose another output or work directory, then run the command again."
    try:
        yield
    except OSError as error:
        sentence = _STORAGE_ERRORS.get(error.errno or 0)
        if sentence is None or not _concerns(error, path):
            raise
        raise StorageError(sentence.format(path=path), hint) from error
    except RuntimeError as error:
        # torch.save reports a full disk as a RuntimeError without errno.
        full = path.parent.is_dir() and shutil.disk_usage(path.parent).free < _FULL
        if isinstance(error, GMVAEError) or not full:
            raise
        raise StorageError(_STORAGE_ERRORS[errno.ENOSPC].format(path=path), hint) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and takes its name.

    Parameters
    ----------
    path : Path
        Final path; its folder is created. What was there before is replaced in one step.

    Yields
    ------
    Path
        Where to write. It has the extension of ``path``, for libraries that look at it.

    Raises
    ------
    StorageError
        For want of space, quota or permission.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, claim = _claim_temporary(path)
        with claim:
            try:
                yield temporary
                _sync(temporary)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        # Some network file systems cannot sync a folder; the file itself is safe by now.
        with suppress(OSError):
            _sync(path.parent)


def remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files of a folder whose writers are gone, as after a kill."""
    for path in folder.glob(f"{TEMPORARY}*"):
        # Finished by now, still being written, or on a file system that cannot tell: let it be.
        # NFS locks only what is open for writing.
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextmanager
def locked(out_dir: Path) -> Iterator[bool]:
    """Hold the lock of an output dataset.

    The system takes it back when this process ends, however it ends.

    Yields
    ------
    bool
        Whether it is held: some file systems have no locks, and nothing keeps others out there.

    Raises
    ------
    StorageError
        If the folder cannot be written, or other processes do not let go.
    """
    lock = out_dir / "logs" / ".dataset.lock"
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file, held = _wait_for(lock)
    with file:
        yield held


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes; returns the path."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text with Unix line ends; returns the path."""
    return write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write an object as indented JSON in the order of its keys; returns the path.

    Raises
    ------
    ValueError
        If a number is not finite: JSON has no word for it.
    """
    return write_text(path, to_json(content))


def to_json(content: Mapping[str, Any]) -> str:
    """Give the text that `write_json` writes."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_tsv(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> Path:
    """Write rows as tab-separated values; returns the path.

    Parameters
    ----------
    path : Path
        The file.
    rows : iterable of mapping
        One mapping of column to value per row. Absent, None and not-a-number become ``n/a``.
    columns : sequence of str, optional
        Order of the columns; by default all that occur, in order of appearance.
    """
    return write_text(path, to_tsv(rows, columns))


def to_tsv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Give the text that `write_tsv` writes."""
    rows = list(rows)
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Read what `write_tsv` wrote: one mapping of column to text per row."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_image(path: Path, image: nb.Nifti1Image) -> Path:
    """Write an image as ``.nii`` or ``.nii.gz``; equal images give equal bytes."""
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        # No time and no name in the header. Noise hardly compresses: higher levels take twice
        # the time for 3 % less.
        content = gzip.compress(content, compresslevel=1, mtime=0)
    return write_bytes(path, content)


def _wait_for(path: Path) -> tuple[IO[bytes], bool]:
    """Open a lock file, and lock it as soon as no other process does."""
    begun = time.monotonic()
    told = False
    while True:
        file = path.open("ab")
        held = _try_lock(file)
        if held is None:
            return file, False
        if held and os.fstat(file.fileno()).st_nlink:
            return file, True
        # Another holds it, or deleted it since it was opened, so that the next lock a new one.
        file.close()
        waited = time.monotonic() - begun
        if waited > PATIENCE:
            raise StorageError(
                f"Other processes have held {path} for {waited:.0f} s.",
                "Deleting it does not help: it is free as soon as they end. Find the one that "
                "hangs, on this machine or another, with 'lsof' and the name of the file; end it, "
                "then run the command again.",
            )
        if waited > SILENCE and not told:
            LOGGER.info("Waiting for other processes, which hold %s.", path)
            told = True
        time.sleep(random.uniform(0, PAUSE))


def _try_lock(file: IO[bytes]) -> bool | None:
    """Lock an open file if no other process does: whether it is now; None without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _LOCKLESS:
            file.close()
            raise
        LOGGER.debug("A file system without locks: %s", error)
        return None
    return True


def _claim_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """Create an unfinished file, which is locked for as long as its writer keeps it open."""
    while True:
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
        claim = temporary.open("xb")
        # Some network file systems have no locks; nothing is ever taken for abandoned there.
        with suppress(OSError):
            fcntl.flock(claim, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, claim
        claim.close()  # it was taken for abandoned before it was locked


def _concerns(error: OSError, path: Path) -> bool:
    """Tell whether an error is about ``path`` or its folders, not about a file that is read."""
    return error.filename is None or Path(os.fsdecode(error.filename)).parent in path.parents


def _cell(value: Any) -> str:
    if value is None or value != value or value == "":
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    # Tables have no words for these, and their readers disagree on what quotes may hold.
    return re.sub(r"[\t\r\n]", " ", str(value))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
