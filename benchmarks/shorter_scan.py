"""Shorter scans: how many volumes voxelwise fits need to be as accurate as ``gmvae`` with few.

Protocols of growing length, n/5 b0 and n directions at each b-value: MS-DKI at 1000, 2000 and 3000
s/mm^2 (n = 10 is the protocol ``short``, 32 volumes; n = 90 is ``hcp``, 288), ball-stick at 1000
and 2000 s/mm^2 (n = 15: 33 volumes; n = 30: 66). Populations of `msdki` and `ball_stick`, SNR 20,
known noise level, the same voxels at every length.

``gmvae`` estimates the shortest protocol, Gaussian least squares and Rician maximum likelihood
(``lsq``) all of them. The length at which a voxelwise fit reaches the root mean square error of
``gmvae`` is interpolated, log error over log volumes, for each tissue and parameter; beyond the
longest protocol it is given as that length with ``at least``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.framework import Effort, Record, Table, Task, medians, product
from benchmarks.samples import Sample, estimate, scores
from bids_gmvae.acquisition import Acquisition
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import spread_directions
from bids_gmvae.simulation.tissues import get_population, sample_orientations, sample_population

#: b-values of the shells (s/mm^2), and directions per shell.
SHELLS = {"msdki": (1000.0, 2000.0, 3000.0), "ball_stick": (1000.0, 2000.0)}
DIRECTIONS = {"msdki": (10, 15, 20, 30, 40, 60, 90), "ball_stick": (15, 20, 30, 45, 60, 90, 130)}
DIRECTIONS_PER_B0 = 5
SNR = 20
VOXELWISE = {"lsq gaussian": "gaussian", "lsq rician": "rician"}
CELL = ["model", "parameter", "tissue"]


def tasks(effort: Effort) -> list[Task]:
    """Cross models and lengths."""
    return [
        task
        for model, lengths in DIRECTIONS.items()
        for task in product(
            measure_errors,
            effort,
            model=(model,),
            directions=lengths[::2] if effort.quick else lengths,
        )
    ]


def measure_errors(model: str, directions: int, seed: int, n_voxels: int) -> list[dict[str, Any]]:
    """Score voxelwise fits at one length, and ``gmvae`` at the shortest."""
    sample = draw_sample(model, protocol(SHELLS[model], directions), n_voxels, seed)
    methods = {
        name: estimate("lsq", sample, noise_model=noise) for name, noise in VOXELWISE.items()
    }
    if directions == DIRECTIONS[model][0]:
        methods["gmvae"] = estimate("gmvae", sample)
    volumes = len(sample.run.acquisition)
    return [
        {"volumes": volumes, **row}
        for name, estimated in methods.items()
        for row in scores(name, estimated, sample)
        if row["tissue"] != "CSF"
    ]


def protocol(shells: Sequence[float], directions: int) -> Acquisition:
    """Spread directions over each shell, and add the b0s that belong to them."""
    rng = np.random.default_rng(0)
    n_b0 = max(2, round(directions / DIRECTIONS_PER_B0))
    bvals = np.repeat([0.0, *shells], [n_b0, *(directions for _ in shells)])
    bvecs = [np.zeros((n_b0, 3)), *(spread_directions(directions, rng) for _ in shells)]
    return Acquisition(
        bvals=torch.from_numpy(bvals), bvecs=torch.from_numpy(np.concatenate(bvecs))
    )


def draw_sample(model: str, acquisition: Acquisition, n_voxels: int, seed: int) -> Sample:
    """Draw voxels, the same for every acquisition, and measure them."""
    generator = torch.Generator().manual_seed(seed)
    values, labels = sample_population(model, n_voxels, generator)
    orientation = sample_orientations(n_voxels, generator)
    physics = get_population(model).model
    signals = simulate_signals(
        physics,
        acquisition,
        values,
        orientation=orientation if physics.directional else None,
        sigma=1 / SNR,
        generator=generator,
    )
    run = Measurements(signals, torch.full_like(signals[:, 0], 1 / SNR), acquisition)
    return Sample(physics, run, values, labels, orientation)


def summarise(records: Sequence[Record]) -> Table:
    """Interpolate lengths of equal error."""
    errors = medians(records, [*CELL, "method", "volumes"], ["rmse"])
    rows = []
    for goal in (row for row in errors if row["method"] == "gmvae"):
        row = {name: goal[name] for name in CELL} | {"gmvae volumes": goal["volumes"]}
        row["gmvae rmse"] = goal["rmse"]
        for method in VOXELWISE:
            curve = [
                (item["volumes"], item["rmse"])
                for item in errors
                if item["method"] == method and all(item[name] == goal[name] for name in CELL)
            ]
            row[f"{method} rmse"] = curve[0][1]
            row[f"{method} volumes"] = length_for(goal["rmse"], curve)
        rows.append(row)
    return Table.of(rows)


def length_for(goal: float, curve: Sequence[tuple[float, float]]) -> str:
    """Find where a falling curve of (volumes, error) reaches the goal.

    Examples
    --------
    >>> length_for(0.5, [(32, 1.0), (128, 0.5), (288, 0.4)])
    '128'
    >>> length_for(0.1, [(32, 1.0), (128, 0.5)])
    'at least 128'
    """
    if curve[0][1] <= goal:
        return f"{curve[0][0]:.0f}"
    for (short, worse), (long, better) in itertools.pairwise(curve):
        if better <= goal:
            share = math.log(worse / goal) / math.log(worse / better)
            return f"{short * (long / short) ** share:.0f}"
    return f"at least {curve[-1][0]:.0f}"


def draw(table: Table, figure: Figure) -> None:
    """Draw the lengths, beside that of ``gmvae``."""
    axis = figure.subplots()
    names = [" ".join(str(row[name]) for name in CELL) for row in table.rows]
    for offset, method in enumerate(("gmvae", *VOXELWISE)):
        lengths = [float(str(row[f"{method} volumes"]).split()[-1]) for row in table.rows]
        axis.barh(np.arange(len(names)) + 0.27 * offset, lengths, 0.25, label=method)
    axis.set(yticks=np.arange(len(names)) + 0.27, yticklabels=names, xlabel="volumes")
    axis.legend()
