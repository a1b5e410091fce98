"""What all interfaces of the package share: versioned inputs, and failures in plain words."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    SimpleInterface,
    traits,
)

from bids_gmvae import __version__
from bids_gmvae.exceptions import GMVAEError, explain
from bids_gmvae.io.atomic import write_text
from bids_gmvae.io.stamps import Stamp, from_plain, stamped, stamps_of, to_plain

LOGGER = logging.getLogger(__name__)

#: What a failed node leaves in its folder.
FAILURE_FILE = "failure.json"

#: What a node leaves in its folder that wrote elsewhere.
NOTE_FILE = "left.json"


class InputSpec(BaseInterfaceInputSpec):
    """Inputs of every interface."""

    # Part of the node's hash: another version of the app computes everything anew.
    version = traits.Str(__version__, usedefault=True, desc="version of the app")


class RunInterface(SimpleInterface):
    """An interface that says in a file why it failed.

    Exceptions of worker processes reach Nipype as text only. The file carries message, hint and
    exit code to the command line, whatever plugin ran the node.
    """

    def _run_interface(self, runtime: Bunch) -> Bunch:
        folder = Path(runtime.cwd)
        (folder / FAILURE_FILE).unlink(missing_ok=True)
        try:
            self._compute(folder)
        except Exception as error:
            known = explain(error)
            if known is None:
                raise
            write_failure(folder, known)
            if known is error:
                raise
            raise known from error
        return runtime

    @abstractmethod
    def _compute(self, folder: Path) -> None:
        """Read, call one function, write into ``folder``, fill ``self._results``."""


class SinkInterface(RunInterface):
    """An interface that writes outside its folder, and leaves a note there of what it wrote.

    The user may have removed or changed it since. What was read is noted, too: its inputs are
    marked ``hash_files=False``, since `left_alone` compares what they contain.
    """

    def _compute(self, folder: Path) -> None:
        with stamped(self._read()) as stamps:
            written = self._write()
        _write_note(folder, {**stamps, **stamps_of(written)})

    @abstractmethod
    def _read(self) -> list[Path]:
        """Name the files that are read."""

    @abstractmethod
    def _write(self) -> list[Path]:
        """Read, call one function, fill ``self._results``.

        Returns
        -------
        list of Path
            All files that were written, and those that must not be there.
        """


def left_alone(folder: Path) -> bool:
    """Tell whether all that a `SinkInterface` read and wrote is as it left it.

    Parameters
    ----------
    folder : Path
        Where it ran.

    Returns
    -------
    bool
        False also if it left no note.
    """
    try:
        stamps = from_plain(json.loads((folder / NOTE_FILE).read_text(encoding="utf-8")))
        renewed: dict[Path, Stamp] = {}
        for path, stamp in stamps.items():
            now = stamp.renewed(path)
            if now is None:
                LOGGER.debug("%s is not as it was left.", path)
                return False
            renewed[path] = now
        if renewed != stamps:
            _write_note(folder, renewed)  # else all are read again next time
        return bool(stamps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no note, or a damaged one; or a file that the next run has to tell about


def _write_note(folder: Path, stamps: Mapping[Path, Stamp]) -> None:
    write_text(folder / NOTE_FILE, json.dumps(to_plain(stamps), indent=1))


def write_failure(folder: Path, error: GMVAEError) -> None:
    """Leave message, hint and exit code of an error in a node's folder."""
    content = {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
    # A full disk is one of the reasons to be here; the crash file is left to tell then.
    try:
        (folder / FAILURE_FILE).write_text(json.dumps(content), encoding="utf-8")
    except OSError as full:
        error.add_note(f"The reason could not be kept in {folder}: {full}")


def read_failure(folder: Path) -> dict[str, Any] | None:
    """Give what a failed node left, or None."""
    try:
        return json.loads((folder / FAILURE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
