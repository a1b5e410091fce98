"""How time, memory and files grow with the number of participants in one call.

**Data.** One participant is simulated (6 b0 and 30 directions on each of three shells, SNR 30; 279
voxels are mapped); all others are copies of its files under other labels. So small a brain shows
what a participant costs beside the fit.

**Measurement.** ``bids-gmvae`` runs in a process of its own, with two workers of one thread: as
``--dry-run``, which finds and checks all runs; ``participant --estimator lsq``, reports included;
``group``; and once more for one participant, with ``--overwrite --clean-workdir``. Wall and CPU
time are from start to end, memory is that of the whole tree of processes (see ``whole_brain``).
Files are counted when the call has ended: files and folders in the work directory, each of which
takes an inode, and those in the output.
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

FIRST = "001"
WORKERS = 2
VALUES = ("wall s", "CPU s", "peak GiB", "work inodes", "output inodes")


def tasks(effort: Effort) -> list[Task]:
    """Map a few participants, or many and four times as many."""
    numbers = [4] if effort.quick else [50, 200]
    return [Task(measure, {"participants": number}, seed=0) for number in numbers]


def summarise(records: Sequence[Record]) -> Table:
    """Give one row per stage and number of participants."""
    return Table.of(medians(records, by=("stage", "participants"), values=VALUES))


def measure(*, seed: int, participants: int) -> Iterator[Record]:
    """Go through all stages in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="many-participants-") as folder:
        root = Path(folder)
        write_dataset(root / "bids", participants, seed)
        command = [sys.executable, "-m", "bids_gmvae", root / "bids", root / "out"]
        mapping = [
            "participant", "--estimator", "lsq", "-w", root / "work",
            "--nprocs", WORKERS, "--omp-nthreads", 1,
        ]  # fmt: skip
        again = ["--participant-label", FIRST, "--overwrite", "--clean-workdir"]
        stages = {
            "dry run": [*mapping, "--dry-run"],
            "participant": mapping,
            "group": ["group", "-w", root / "work"],
            "one, clean": [*mapping, *again],
        }
        for stage, arguments in stages.items():
            seen, _ = watch([str(part) for part in (*command, *arguments)])
            inodes = {
                f"{name} inodes": sum(1 for _ in (root / place).rglob("*"))
                for name, place in {"work": "work", "output": "out"}.items()
            }
            yield {"stage": stage, **seen, **inodes}


def write_dataset(root: Path, participants: int, seed: int) -> None:
    """Simulate one participant, and copy it under other labels."""
    simulate_dataset(
        root, n_subjects=1, scheme="multishell", voxel_size=12.0, n_slices=2, seed=seed
    )
    source = root / "sub-01"
    for number in range(1, participants + 1):
        copied = shutil.copytree(source, root / f"sub-{number:03}")
        for path in copied.rglob("sub-01_*"):
            path.rename(path.with_name(path.name.replace("sub-01", copied.name)))
    shutil.rmtree(source)
    labels = "".join(f"sub-{number:03}\n" for number in range(1, participants + 1))
    (root / "participants.tsv").write_text(f"participant_id\n{labels}")
