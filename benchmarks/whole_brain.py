"""How long a whole brain takes from its compressed image to maps and report, and how much memory.

**Data.** A block of 20,000 voxels of the ball-stick population (free orientations) is simulated
with the HCP protocol (18 b0 + 90 directions each at 1000, 2000 and 3000 s/mm^2) at SNR 30 and
repeated within the voxels nearest to the centre of a grid whose proportions and share of brain
are those of HCP data (145 x 174 x 145 voxels, 900,000 of them in the mask); the rest is 0. It is
written as ``.nii.gz`` (level 1), as scaled int16 or as float32, with its mask beside it.

**Measurement.** The command ``bids-gmvae BIDS OUT participant`` runs in a process of its own with
two threads and all other settings at their defaults. Wall time is taken from its start to its
end, that of a stage from one message of its log to the next. CPU time is that of all its
processes together: half of it is what two idle cores would need at least. Memory is the
proportional set size (each shared page counted once) summed over the tree of processes, sampled
four times a second; mapped files count with the pages in use. The first call on a machine
compiles kernels.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import nibabel as nb
import numpy as np
import psutil  # type: ignore[import-untyped]
import torch

from benchmarks.framework import Effort, Record, Table, Task, medians
from bids_gmvae.acquisition import Acquisition
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import get_population, sample_orientations, sample_population

#: Times mean nothing while something else runs.
ALONE = True

WHOLE, SHAPE, VOXEL = 900_000, (145, 174, 145), 1.25
BLOCK = 20_000
SNR, S0 = 30, 1000.0
#: Steps between the numbers that an int16 image can hold.
SLOPE = 0.25
THREADS = 2
#: What the log says when a stage begins; the first begins with the process.
STAGES = {
    "start": None,
    "reading": "reading",
    "fitting": "fitting",
    "writing": "writing maps",
    "figures": "drawing figures",
}
VALUES = (
    "wall s", *(f"{stage} s" for stage in STAGES),
    "CPU s", *(f"{stage} CPU s" for stage in STAGES), "voxels/s", "peak GiB",
)  # fmt: skip


def tasks(effort: Effort) -> list[Task]:
    """Map a small brain, or a large and a whole one."""
    if effort.quick:
        conditions = [("int16", BLOCK)]
    else:
        conditions = [("int16", 100_000), ("float32", 100_000), ("int16", WHOLE)]
    return [
        Task(measure, {"stored as": stored, "voxels": n_voxels}, seed=0)
        for stored, n_voxels in conditions
    ]


def summarise(records: Sequence[Record]) -> Table:
    """Give one row per brain."""
    return Table.of(medians(records, by=("stored as", "voxels"), values=VALUES))


def measure(*, seed: int, voxels: int, estimator: str = "gmvae", **condition: str) -> list[Record]:
    """Simulate a brain in a temporary folder, map it, and read the log."""
    with tempfile.TemporaryDirectory(prefix="whole-brain-") as folder:
        root = Path(folder)
        write_brain(root / "bids", voxels, condition["stored as"], seed)
        command = [
            sys.executable, "-m", "bids_gmvae", root / "bids", root / "out", "participant",
            "--signal-model", "ball_stick", "--estimator", estimator, "--work-dir", root / "work",
            "--nprocs", THREADS, "--omp-nthreads", THREADS,
        ]  # fmt: skip
        began = datetime.now()
        seen, used = watch([str(part) for part in command])
        (log,) = (root / "out" / "logs").glob("*/bids_gmvae.log")
        stages = dict(stage_times(log.read_text(), began, used))
    return [{**seen, **stages, "voxels/s": voxels / seen["wall s"]}]


def write_brain(root: Path, n_voxels: int, stored: str, seed: int) -> None:
    """Write a BIDS dataset of one participant."""
    acquisition = get_scheme("hcp", seed=seed)
    shape = [round(edge * (n_voxels / WHOLE) ** (1 / 3)) for edge in SHAPE]
    index = np.indices(shape).reshape(3, -1).T / shape
    distance = np.linalg.norm(index - 0.5, axis=1)
    inside = np.zeros(len(distance), dtype=bool)
    inside[np.argsort(distance, kind="stable")[:n_voxels]] = True

    affine = np.diag([-VOXEL, VOXEL, VOXEL, 1.0])
    stem = root / "sub-01" / "dwi" / "sub-01_dwi"
    masks = root / "derivatives" / "masks"
    mask = masks / "sub-01" / "dwi" / "sub-01_desc-brain_mask.nii.gz"
    for folder in (stem.parent, mask.parent):
        folder.mkdir(parents=True)
    nb.save(nb.Nifti1Image(inside.reshape(shape).astype("u1"), affine), mask)
    for dataset, kind in ((root, "raw"), (masks, "derivative")):
        words = {"Name": kind, "BIDSVersion": "1.10.0", "DatasetType": kind}
        origin = {"GeneratedBy": [{"Name": "simulation"}]}
        (dataset / "dataset_description.json").write_text(json.dumps(words | origin))
    stem.with_suffix(".json").write_text(json.dumps({"EchoTime": 0.09}))
    np.savetxt(stem.with_suffix(".bval"), acquisition.bvals[None], "%d")
    np.savetxt(stem.with_suffix(".bvec"), acquisition.bvecs.T, "%.6f")

    header = nb.Nifti1Header()
    header.set_data_shape((*shape, len(acquisition)))
    header.set_data_dtype(stored)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_slope_inter(SLOPE if stored == "int16" else 1, 0)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(stem.with_suffix(".nii.gz"), "wb", compresslevel=1) as file:
        file.write(header.binaryblock + bytes(4))
        volume = np.zeros(len(inside), stored)
        for values in simulate_block(acquisition, seed).T:
            scaled = np.round(values / SLOPE) if stored == "int16" else values
            volume[inside] = np.resize(scaled, n_voxels)
            file.write(volume.reshape(shape).tobytes(order="F"))


def simulate_block(acquisition: Acquisition, seed: int) -> np.ndarray:
    """Simulate noisy magnitudes, (n_voxels, n_volumes)."""
    generator = torch.Generator().manual_seed(seed)
    population = get_population("ball_stick")
    values, _ = sample_population("ball_stick", BLOCK, generator)
    orientation = sample_orientations(BLOCK, generator)
    return simulate_signals(
        population.model, acquisition, values, orientation=orientation,
        s0=S0, sigma=S0 / SNR, generator=generator,
    ).numpy()  # fmt: skip


def watch(command: Sequence[str]) -> tuple[dict[str, float], np.ndarray]:
    """Run a command; give its wall time, CPU time and peak memory with all its processes.

    Further give wall and CPU time as they went on, (n_samples, 2).
    """
    start, peak = time.perf_counter(), 0
    used: dict[int, float] = {}
    history = [(0.0, 0.0)]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process,
    ):
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, look(tree, used))
            history.append((time.perf_counter() - start, sum(used.values())))
            time.sleep(0.25)
        wall, cpu = time.perf_counter() - start, sum(used.values())
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode())
    times = {"wall s": wall, "CPU s": cpu, "peak GiB": peak / 2**30}
    return times, np.array([*history, (wall, cpu)])


def look(tree: psutil.Process, used: dict[int, float]) -> int:
    """Sum the memory of a process and its descendants, bytes; note their CPU times, s."""
    total = 0
    with suppress(psutil.Error):  # one of them ended meanwhile
        for process in (tree, *tree.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
                total += process.memory_full_info().pss
    return total


def stage_times(log: str, began: datetime, used: np.ndarray) -> Iterator[tuple[str, float]]:
    """Read from the log when stages began; give their durations and CPU times, s."""
    starts = {"start": 0.0}
    for stage, said in STAGES.items():
        found = re.search(rf"^(\S+ \S+),\d+ .*: {said}$", log, re.MULTILINE) if said else None
        if found:
            starts[stage] = (datetime.fromisoformat(found[1]) - began).total_seconds()
    edges = np.array([*starts.values(), used[-1, 0]])
    cpu = np.interp(edges, *used.T)
    for stage, wall, busy in zip(starts, np.diff(edges), np.diff(cpu), strict=True):
        yield f"{stage} s", float(wall)
        yield f"{stage} CPU s", float(busy)
