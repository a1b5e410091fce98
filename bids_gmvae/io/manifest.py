"""What an output dataset consists of: path, size and checksum of every file."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from bids_gmvae.io.atomic import TEMPORARY, locked, read_tsv, write_tsv

MANIFEST = "manifest.tsv"


def write_manifest(out_dir: Path) -> Path:
    """Write path, size and checksum of every file of the dataset, logs apart.

    Returns
    -------
    Path
        The manifest.
    """
    with locked(out_dir):
        rows = []
        for path in dataset_files(out_dir):
            # Another process may have replaced its leftovers since the files were listed.
            with suppress(FileNotFoundError):
                size, digest = checksum(path)
                name = path.relative_to(out_dir).as_posix()
                rows.append({"path": name, "size": size, "sha256": digest})
        return write_tsv(out_dir / MANIFEST, rows, ["path", "size", "sha256"])


def read_manifest(out_dir: Path) -> list[dict[str, str]]:
    """Read the manifest; empty if there is none."""
    path = out_dir / MANIFEST
    return read_tsv(path) if path.exists() else []


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
