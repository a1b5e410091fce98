"""How time, memory and files grow with the number of participants in one call.

**Data.** One participant is simulated (6 b0 and 30 directions on each of three shells, SNR 30; 279
voxels are mapped); all others are copies of its files under other labels. So small a brain shows
what a participant costs beside the fit.

**Measurement.** ``bids-gmvae`` runs in a process of its own, with two workers of one thread: as
``--dry-run``, which finds and checks all runs; ``participant --estimator lsq``, reports included;
``group``; the participant level again, which finds all done; and anew from the start with
``--overwrite --clean-workdir``. Wall and CPU time are from start to end, memory is that of the
whole tree of processes (see ``whole_brain``). Files and folders in the work directory and in the
output are counted when the call has ended; each takes an inode.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.framework import Effort, Record, Table, Task, medians
from benchmarks.whole_brain import watch
from bids_gmvae.simulation.dataset import simulate_dataset

#: Times mean nothing while something else runs.
ALONE = True

WORKERS = 2
VALUES = ("wall s", "CPU s", "peak GiB", "work inodes", "output inodes")


def tasks(effort: Effort) -> list[Task]:
    """Take a few participants, or many and four times as many."""
    numbers = [5] if effort.quick else [50, 200]
    return [Task(measure, {"participants": number}, seed=0) for number in numbers]


def summarise(records: Sequence[Record]) -> Table:
    """Give one row per number of participants and stage."""
    return Table.of(medians(records, by=("participants", "stage"), values=VALUES))


def measure(*, seed: int, participants: int) -> Iterator[Record]:
    """Go through all stages in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="many-participants-") as folder:
        root = Path(folder)
        work, out = root / "work", root / "out"
        write_dataset(root / "bids", participants, seed)
        mapping = [
            "participant", "--estimator", "lsq", "--nprocs", WORKERS, "--omp-nthreads", 1,
        ]  # fmt: skip
        stages: dict[str, list[object]] = {
            "dry run": [*mapping, "--dry-run"],
            "participant": mapping,
            "group": ["group"],
            "participant, all done": mapping,
            "participant, clean": [*mapping, "--overwrite", "--clean-workdir"],
        }
        for stage, arguments in stages.items():
            command = [sys.executable, "-m", "bids_gmvae", root / "bids", out, *arguments]
            seen, _ = watch([str(part) for part in (*command, "-w", work)])
            inodes = {"work inodes": count(work), "output inodes": count(out)}
            yield {"stage": stage, **seen, **inodes}


def write_dataset(root: Path, participants: int, seed: int) -> None:
    """Simulate one participant, and copy its files under other labels."""
    simulate_dataset(
        root, n_subjects=1, scheme="multishell", voxel_size=12.0, n_slices=2, seed=seed
    )
    first = root / "sub-01"
    labels = [f"sub-{number:03}" for number in range(1, participants + 1)]
    for label in labels:
        for path in first.rglob("*.*"):
            target = root / str(path.relative_to(root)).replace(first.name, label)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for simulated in (first, root / "derivatives"):
        shutil.rmtree(simulated)
    (root / "participants.tsv").write_text("\n".join(["participant_id", *labels, ""]))


def count(folder: Path) -> int:
    """Count files and folders within a folder; 0 if there is none."""
    return sum(1 for _ in folder.rglob("*"))
