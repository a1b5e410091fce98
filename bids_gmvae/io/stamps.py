"""How files were: whether one is still what was read or written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
        Digest of its content; empty if there was no such file. It decides whether a file is
        another one: replaced files may keep their size and time, and files that were only copied,
        touched or written again have other ones.
    seen : tuple of int
        Size, bytes, and times when content and entry were changed, ns.
    """

    sha256: str
    seen: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Give the stamp of a file, which need not exist."""
        try:
            # In this order: whoever changes it in between is noticed by the times.
            seen = _look(path)
            return cls(digest(path), seen)
        except FileNotFoundError:
            return cls("", ())

    def renewed(self, path: Path) -> Stamp | None:
        """Give the stamp with the times of now; None if the content is another one."""
        try:
            seen = _look(path)
            if seen != self.seen and digest(path) != self.sha256:
                return None
        except FileNotFoundError:
            return None if self.sha256 else self
        return replace(self, seen=seen)

    def fits(self, path: Path) -> bool:
        """Tell whether a file still has the content that it had."""
        return self.renewed(path) is not None


@contextmanager
def stamped(paths: Iterable[Path]) -> Iterator[dict[Path, Stamp]]:
    """Read files within; the mapping holds the stamp of each.

    Raises
    ------
    GMVAEError
        If one of them has another content afterwards.
    """
    stamps = stamps_of(paths)
    yield stamps
    for path, stamp in stamps.items():
        if not stamp.fits(path):
            raise changed_error(path)


def stamps_of(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """Give the stamps of files; what is missing is for those who read it to tell."""
    return {path: Stamp.of(path) for path in paths}


def to_plain(stamps: Mapping[Path, Stamp]) -> dict[str, dict[str, Any]]:
    """Give stamps as plain values, for JSON."""
    return {str(path): asdict(stamp) for path, stamp in stamps.items()}


def from_plain(content: Mapping[str, Mapping[str, Any]]) -> dict[Path, Stamp]:
    """Give the stamps that `to_plain` wrote."""
    return {
        Path(name): Stamp(stamp["sha256"], tuple(stamp["seen"])) for name, stamp in content.items()
    }


def changed_error(path: Path) -> GMVAEError:
    """Give what is told of a file that is not what it was."""
    return GMVAEError(f"{path} was changed while it was mapped.", "Run the command again.")


def _look(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
