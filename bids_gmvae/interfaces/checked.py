"""What the check of a run leaves: its findings, and how the files were that it has seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.io.run import Run
from bids_gmvae.io.stamps import Stamp, changed_error, from_plain


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
            stamps=from_plain(content["files"]),
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
                raise changed_error(path)
