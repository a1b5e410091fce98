"""How files were: whether one is still what was read or written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bids_gmvae.exceptions import GMVAEError


def digest(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Stamp:
    """How a file was.

    Size and times are compared, and only where they differ the content: it takes seconds per GB.

    Attributes
    ----------
    sha256 : str
        Digest of its content. It decides whether a file is another one: replaced files may keep
        their size and time, and files that were only copied or touched have other ones.
    seen : tuple of int
        Size, bytes, and times when content and entry were changed, ns.
    """

    sha256: str
    seen: tuple[int, ...]

    def fits(self, path: Path) -> bool:
        """Tell whether a file still has the content that it had."""
        return path.exists() and (_look(path) == self.seen or digest(path) == self.sha256)


@contextmanager
def stamped(paths: Iterable[Path]) -> Iterator[dict[Path, Stamp]]:
    """Read files within; afterwards, the mapping holds the stamp of each.

    Raises
    ------
    GMVAEError
        If one of them was changed meanwhile.
    """
    # What is missing is for those who read it to tell.
    before = {path: _look(path) for path in paths if path.exists()}
    stamps: dict[Path, Stamp] = {}
    yield stamps
    for path, seen in before.items():
        stamps[path] = Stamp(digest(path) if path.exists() else "", seen)
        if not path.exists() or _look(path) != seen:
            raise changed(path)


def stamps_of(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """Give the stamps of files that nobody changes meanwhile."""
    return {path: Stamp(digest(path), _look(path)) for path in paths}


def to_plain(stamps: Mapping[Path, Stamp]) -> dict[str, dict[str, Any]]:
    """Give stamps as plain values, for JSON."""
    return {str(path): asdict(stamp) for path, stamp in stamps.items()}


def from_plain(content: Mapping[str, Mapping[str, Any]]) -> dict[Path, Stamp]:
    """Give the stamps that `to_plain` wrote."""
    return {
        Path(name): Stamp(stamp["sha256"], tuple(stamp["seen"])) for name, stamp in content.items()
    }


def _look(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def changed(path: Path) -> GMVAEError:
    """Give what is told of a file that is not what it was."""
    return GMVAEError(f"{path} was changed while it was mapped.", "Run the command again.")
