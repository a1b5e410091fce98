"""Why nodes failed, from what they left."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nipype.pipeline import engine as pe

from bids_gmvae.cli.watchdog import STALLED
from bids_gmvae.cli.workers import KILLED
from bids_gmvae.exceptions import ExitCode, GMVAEError, explain
from bids_gmvae.interfaces.base import read_failure

#: Texts in a traceback of something that is no defect of the app.
SYMPTOMS: Mapping[str, BaseException] = {
    STALLED.message: STALLED,
    "BrokenProcessPool": KILLED,
    "MemoryError": MemoryError(),
    "No space left on device": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "Disk quota exceeded": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "Read-only file system": OSError(errno.EROFS, os.strerror(errno.EROFS)),
    "results file does not exist": GMVAEError(
        "The scheduler ended its job: it was cancelled, or out of memory or time.",
        "See slurm-*.out in the folder batch of the work directory; ask for more by sbatch_args.",
    ),
}


@dataclass(frozen=True)
class Failure:
    """A node that failed.

    Attributes
    ----------
    node : str
        Full name.
    message, hint : str
        For the user.
    exit_code : ExitCode
        What it leads to.
    crash_file : Path or None
        Inputs and traceback.
    """

    node: str
    message: str
    hint: str
    exit_code: ExitCode
    crash_file: Path | None


def find_failure(node: pe.Node, crash_file: Path | None) -> Failure:
    """Find out why a node failed: from what it left, else from its crash file."""
    text = "" if crash_file is None else crash_file.read_text(encoding="utf-8", errors="replace")
    known: GMVAEError | None = next(
        (explain(cause) for symptom, cause in SYMPTOMS.items() if symptom in text), None
    )
    # What lies in the folder of a node whose process was ended is of an earlier call.
    left = None if known in (STALLED, KILLED) else read_failure(Path(node.output_dir()))
    if left is not None:
        code = ExitCode(left["exit_code"])
        return Failure(node.fullname, left["message"], left["hint"], code, crash_file)
    if known is not None:
        return Failure(node.fullname, known.message, known.hint, known.exit_code, crash_file)
    last = text.strip().splitlines()[-1] if text.strip() else "no reason is known"
    return Failure(
        node.fullname,
        f"Internal error in {node.name}: {last}",
        "Please report it with the crash file.",
        ExitCode.INTERNAL,
        crash_file,
    )


def find_crash_files(log_dir: Path) -> dict[str, Path]:
    """Find the latest crash file of each node, by full name."""
    found = {}
    for path in sorted(log_dir.glob("crash-*.txt"), key=lambda path: path.stat().st_mtime_ns):
        with path.open(encoding="utf-8", errors="replace") as file:
            found[file.readline().strip().removeprefix("Node: ")] = path
    return found
