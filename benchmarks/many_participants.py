"""How time, memory and files grow with the number of participants in one call.

**Data.** One participant is simulated (6 b0 and 30 directions on each of three shells, SNR 30; 279
voxels are mapped); all others are copies of its files under other labels. So small a brain shows
what a participant costs beside the fit.

**Measurement.** ``bids-gmvae`` runs in a process of its own, with two workers of one thread: as
``--dry-run``, which finds and checks all runs; ``participant --estimator lsq``, reports included;
``group``; and for one participant again, with ``--overwrite --clean-workdir``. To save time, one
in five is mapped in one call, and the group consists of copies of the first one's maps. The table
says how many participants each stage is about. Wall and CPU time are from start to end, memory is
that of the whole tree of processes (see ``whole_brain``). Files and folders in the work directory
and in the output are counted when the call has ended; each takes an inode.
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
#: One participant in so many is mapped.
MAPPED = 5
VALUES = ("wall s", "CPU s", "peak GiB", "work inodes", "output inodes")


def tasks(effort: Effort) -> list[Task]:
    """Take a few participants, or many and four times as many."""
    numbers = [5] if effort.quick else [50, 200]
    return [Task(measure, {"dataset": number}, seed=0) for number in numbers]


def summarise(records: Sequence[Record]) -> Table:
    """Give one row per stage and size of the dataset."""
    return Table.of(medians(records, by=("dataset", "stage", "participants"), values=VALUES))


def measure(*, seed: int, dataset: int) -> Iterator[Record]:
    """Go through all stages in a temporary folder."""
    labels = [f"{number:03}" for number in range(1, dataset + 1)]
    mapped = labels[: dataset // MAPPED]
    with tempfile.TemporaryDirectory(prefix="many-participants-") as folder:
        root = Path(folder)
        work, out = root / "work", root / "out"
        write_dataset(root / "bids", labels, seed)
        mapping = [
            "participant", "--estimator", "lsq", "-w", work,
            "--nprocs", WORKERS, "--omp-nthreads", 1, "--participant-label",
        ]  # fmt: skip
        stages: dict[str, tuple[int, list[object]]] = {
            "dry run": (dataset, [*mapping, *labels, "--dry-run"]),
            "participant": (len(mapped), [*mapping, *mapped]),
            "group": (dataset, ["group", "-w", work]),
            "one, clean": (1, [*mapping, labels[0], "--overwrite", "--clean-workdir"]),
        }
        for stage, (participants, arguments) in stages.items():
            if stage == "group":
                for label in labels[len(mapped) :]:
                    copy_participant(out, labels[0], label)
            command = [sys.executable, "-m", "bids_gmvae", root / "bids", out, *arguments]
            seen, _ = watch([str(part) for part in command])
            inodes = {"work inodes": count(work), "output inodes": count(out)}
            yield {"stage": stage, "participants": participants, **seen, **inodes}


def write_dataset(root: Path, labels: Sequence[str], seed: int) -> None:
    """Simulate one participant, and copy it under other labels."""
    simulate_dataset(
        root, n_subjects=1, scheme="multishell", voxel_size=12.0, n_slices=2, seed=seed
    )
    for label in labels:
        copy_participant(root, "01", label)
    shutil.rmtree(root / "sub-01")
    rows = "".join(f"sub-{label}\n" for label in labels)
    (root / "participants.tsv").write_text(f"participant_id\n{rows}")


def copy_participant(root: Path, source: str, label: str) -> None:
    """Copy the files of a participant; names and texts bear the other label."""
    old, new = f"sub-{source}", f"sub-{label}"
    for path in (root / old).rglob("*.*"):
        target = root / str(path.relative_to(root)).replace(old, new)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".json", ".tsv"):
            target.write_text(path.read_text().replace(old, new))
        else:
            shutil.copyfile(path, target)


def count(folder: Path) -> int:
    """Count files and folders within a folder; 0 if there is none."""
    return sum(1 for _ in folder.rglob("*"))
