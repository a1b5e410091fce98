"""What an output dataset consists of: path, size and checksum of every file."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath

from bids_gmvae.io.atomic import TEMPORARY, locked, read_tsv, write_tsv

MANIFEST = "manifest.tsv"

COLUMNS = ("path", "size", "sha256")


def write_manifest(out_dir: Path, subjects: Collection[str] | None = None) -> Path:
    """Write path, size and checksum of every file of the dataset, logs apart.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.
    subjects : collection of str, optional
        Labels of the participants that this call wrote, besides files of the dataset as a whole.
        What was said of the others stays: damage to their files must not pass for the original,
        nor what another process has not finished. All by default, and if none was written and
        there is no manifest.

    Returns
    -------
    Path
        The manifest.
    """
    with locked(out_dir):
        earlier = [] if subjects is None else read_manifest(out_dir)
        every = not subjects and not earlier
        own = {None, *(subjects or ())}
        rows: list[dict[str, str | int]] = [
            {**row} for row in earlier if _participant(row["path"]) not in own
        ]
        for path in dataset_files(out_dir):
            name = path.relative_to(out_dir).as_posix()
            if not every and _participant(name) not in own:
                continue
            # Another process may have replaced its leftovers since the files were listed.
            with suppress(FileNotFoundError):
                size, digest = checksum(path)
                rows.append({"path": name, "size": size, "sha256": digest})
        rows.sort(key=lambda row: PurePosixPath(str(row["path"])))
        return write_tsv(out_dir / MANIFEST, rows, COLUMNS)


def read_manifest(out_dir: Path) -> list[dict[str, str]]:
    """Read the manifest; empty if there is none, or none that can be read."""
    try:
        rows = read_tsv(out_dir / MANIFEST)
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError, csv.Error):
        return []
    return [row for row in rows if all(row.get(column) for column in COLUMNS)]


def dataset_files(out_dir: Path) -> list[Path]:
    """List the files of an output dataset: those at its root and those of its subjects.

    Logs, the work directory, hidden and unfinished files are no part of it.
    """
    top = [path for path in out_dir.iterdir() if path.is_file()]
    inside = [
        path
        for folder in out_dir.glob("sub-*")
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.is_file()
    ]
    hidden = (TEMPORARY, ".")
    return sorted(
        path
        for path in (*top, *inside)
        if path.name == ".bidsignore" or not path.name.startswith(hidden)
        if path.name != MANIFEST
    )


def checksum(path: Path) -> tuple[int, str]:
    """Give the size in bytes and the SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest


def _participant(name: str) -> str | None:
    """Give the label of the participant that a file is about; None for the dataset's own."""
    found = re.match(r"sub-([0-9a-zA-Z+]+)", name)
    return found[1] if found else None
