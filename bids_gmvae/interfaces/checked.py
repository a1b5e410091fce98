"""What the check of a run leaves: its findings, and how the files were that it has seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import GMVAEError
from bids_gmvae.io.measured import digest
from bids_gmvae.io.run import Run


@dataclass(frozen=True)
class Stamp:
    """How a file was when the run was checked.

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


@dataclass(frozen=True, eq=False)
class Checked:
    """What the check of a run left.

    Attributes
    ----------
    run : Run
        The run.
    acquisition : Acquisition
        Settings of all volumes, float64.
    selected : array of bool, shape (n_volumes,)
        Volumes to use.
    info : mapping
        ``frame``, ``shells`` and ``issues``, plain values.
    stamps : mapping of Path to Stamp
        The files of the run as they were.
    """

    run: Run
    acquisition: Acquisition
    selected: NDArray[np.bool_]
    info: Mapping[str, Any]
    stamps: Mapping[Path, Stamp]

    @classmethod
    def read(cls, path: Path) -> Checked:
        """Read the file that `CheckRun` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        columns = {
            name: torch.tensor(values, dtype=torch.float64)
            for name, values in content["acquisition"].items()
        }
        return cls(
            run=Run.from_dict(content["run"]),
            acquisition=Acquisition(**columns),
            selected=np.array(content["selected"], dtype=bool),
            info={name: content[name] for name in ("frame", "shells", "issues")},
            stamps={
                Path(name): Stamp(stamp["sha256"], tuple(stamp["seen"]))
                for name, stamp in content["files"].items()
            },
        )

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read files of the run within: they must be those that were checked, to the end.

        Hours may lie between two stages, and a new image must not meet the old gradient table.

        Raises
        ------
        GMVAEError
            If one of them has another content, whatever else was wrong with it.
        """
        self._require_unchanged()
        try:
            yield
        finally:
            self._require_unchanged()

    def _require_unchanged(self) -> None:
        for path, stamp in self.stamps.items():
            if not stamp.fits(path):
                raise _changed(path)


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
            raise _changed(path)


def _look(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _changed(path: Path) -> GMVAEError:
    return GMVAEError(f"{path} was changed while it was mapped.", "Run the command again.")
