"""What an output dataset consists of: path, size and checksum of every file."""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from bids_gmvae.io.atomic import TEMPORARY, locked, read_tsv, to_tsv, write_text

MANIFEST = "manifest.tsv"

COLUMNS = ("path", "size", "sha256")

_LINE = re.compile(r"([^\t]+)\t[^\t]+\t[^\t]+")

#: Checksums by path and by what tells one version of a file from the next.
_Known = dict[tuple[str, int, int, int, int], str]


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
    # Thousands of calls queue for the lock, so files are read before it is taken. Under it they
    # are listed and opened again, and those are read that another process replaced meanwhile.
    known: _Known = {}
    _describe(out_dir, _own(subjects, subjects or _earlier(out_dir, subjects)), known)
    with locked(out_dir):
        lines = _earlier(out_dir, subjects)
        own = _own(subjects, lines)
        if own is not None:
            lines = {name: line for name, line in lines.items() if _whose(name) not in own}
        lines |= _lines(_describe(out_dir, own, known))
        # By the parts of the path: no name holds a zero byte, which comes before all others.
        ordered = sorted(lines, key=lambda name: name.replace("/", "\0"))
        text = "\n".join(["\t".join(COLUMNS), *(lines[name] for name in ordered), ""])
        return write_text(out_dir / MANIFEST, text)


def read_manifest(out_dir: Path) -> list[dict[str, str]]:
    """Read the manifest; empty if there is none, or none that can be read."""
    try:
        rows = read_tsv(out_dir / MANIFEST)
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError, csv.Error):
        return []
    return [row for row in rows if all(row.get(column) for column in COLUMNS)]


def dataset_files(out_dir: Path, own: Collection[str | None] | None = None) -> list[Path]:
    """List the files of an output dataset: those at its root and those of its subjects.

    Logs, the work directory, hidden and unfinished files are no part of it.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.
    own : collection of str and None, optional
        Labels of the participants whose files are listed, and None for those of the dataset as a
        whole; folders of others are not looked into. All by default.
    """
    found: list[Path] = []
    for name in os.listdir(out_dir):
        if own is not None and _whose(name) not in own:
            continue
        path = out_dir / name
        if name.startswith("sub-") and path.is_dir():
            found += (Path(folder, file) for folder, _, files in os.walk(path) for file in files)
        else:
            found.append(path)
    hidden = (TEMPORARY, ".")
    return sorted(
        path
        for path in found
        if path.name == ".bidsignore" or not path.name.startswith(hidden)
        if path.name != MANIFEST
        if path.is_file()
    )


def checksum(path: Path) -> tuple[int, str]:
    """Give the size in bytes and the SHA-256 of a file."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, _digest(file)


def _digest(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _describe(
    out_dir: Path, own: Collection[str | None] | None, known: _Known
) -> dict[str, dict[str, str | int]]:
    """Give the rows of files by their names; checksums are taken from, or added to, ``known``."""
    rows: dict[str, dict[str, str | int]] = {}
    for path in dataset_files(out_dir, own):
        name = path.relative_to(out_dir).as_posix()
        # Another process may have replaced its leftovers since the files were listed. On NFS, what
        # is told of a file may be old, unless it is open.
        with suppress(FileNotFoundError), path.open("rb") as file:
            now = os.fstat(file.fileno())
            version = (name, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
            if version not in known:
                known[version] = _digest(file)
            rows[name] = {"path": name, "size": now.st_size, "sha256": known[version]}
    return rows


def _own(subjects: Collection[str] | None, earlier: Collection[str]) -> set[str | None] | None:
    """Give the participants that are described anew, with None for the dataset; None for all."""
    return {None, *(subjects or ())} if subjects or earlier else None


def _earlier(out_dir: Path, subjects: Collection[str] | None) -> dict[str, str]:
    """Give the lines of the manifest by the names of their files; none if all are made anew."""
    if subjects is None:
        return {}
    # Nothing is parsed that need not be: there may be a hundred lines for each of thousands.
    with suppress(FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        text = (out_dir / MANIFEST).read_text(encoding="utf-8")
        header, *lines = text.split("\n")
        if header == "\t".join(COLUMNS) and '"' not in text:
            found = map(_LINE.match, lines)
            return {line[1]: line[0] for line in found if line}
    return _lines({row["path"]: row for row in read_manifest(out_dir)})


def _lines(rows: Mapping[str, Mapping[str, str | int]]) -> dict[str, str]:
    """Write rows as lines of the table, by the names of their files."""
    text = to_tsv(rows.values(), COLUMNS)
    return dict(zip(rows, text.split("\n")[1:-1], strict=True))


def _whose(name: str) -> str | None:
    """Give the label of the participant that a file is about; None for the dataset's own."""
    return _label(name.partition("/")[0])


@functools.cache
def _label(entry: str) -> str | None:
    found = re.match(r"sub-([0-9a-zA-Z+]+)", entry)
    return found[1] if found else None
