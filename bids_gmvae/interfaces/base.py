"""What all interfaces of the package share: versioned inputs, and failures in plain words."""

from __future__ import annotations

import json
from abc import abstractmethod
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

#: What a failed node leaves in its folder.
FAILURE_FILE = "failure.json"


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
    """An interface that writes outside its folder.

    It runs even if Nipype finds it cached: the user may have removed the outputs since. Its inputs
    are therefore marked ``hash_files=False``: what they contain need not be compared.
    """

    _always_run = True


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
