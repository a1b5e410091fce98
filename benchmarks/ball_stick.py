"""Ball and stick against its limits.

Voxels of white matter, grey matter and cerebrospinal fluid are drawn from the population, each
with a fibre orientation of its own, uniform on the sphere. Protocols: ``hcp``, 18 b0 + 90
directions at each of 1000, 2000, 3000 s/mm^2; ``twoshell``, 6 b0 + 30 at each of 1000 and 2000;
``singleshell``, 3 b0 + 32 at 1000, which cannot tell two diffusivities apart: there truth and
estimators have one, as the app chooses for such data. Rician noise; S0 and orientation unknown,
noise level known.

Methods: least squares (``lsq gaussian``), Rician maximum likelihood (``lsq rician``), ``gmvae``
with both recognitions. Limits: the Bayes-optimal estimate under the true population, by importance
sampling with 128 draws, and the Cramer-Rao bound (root mean square over voxels).

Table: root mean square error of f, Dpar, Diso (um^2/ms) by tissue and its ratio to the
Bayes-optimal one; the median angle (degrees) between true and estimated fibre in white matter.
For cerebrospinal fluid, where f goes to 0: which share of voxels the estimator itself marks as
not identified, and how often the 68 % interval of f holds the truth in all voxels and in those
that are left. All are medians over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.framework import Effort, Record, Table, Task, medians, product
from benchmarks.oracles import Estimate, TruePrior
from benchmarks.samples import (
    TISSUES,
    Sample,
    bounds,
    draw_ratios,
    draw_sample,
    estimate,
    relative,
    scores,
    side_by_side,
)
from benchmarks.sampling import bayes_by_sampling
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.simulation.tissues import get_population

CONDITION = ["scheme", "snr"]
ORACLE = "Bayes-optimal"
FLUID = ["flagged", "cov68", "cov68 kept"]


def tasks(effort: Effort) -> list[Task]:
    """Take the long protocol at all noise levels, the others at one."""
    levels = (20,) if effort.quick else (10, 20, 50, 100)
    others = product(compare, effort, scheme=("twoshell", "singleshell"), snr=(20,))
    return [*product(compare, effort, scheme=("hcp",), snr=levels), *others]


def compare(scheme: str, snr: float, seed: int, n_voxels: int) -> Sequence[Record]:
    """Score all methods on the same voxels."""
    population = "ball_stick_tied" if scheme == "singleshell" else "ball_stick"
    sample = draw_sample(population, scheme, snr, n_voxels=n_voxels, seed=seed)
    prior = TruePrior.of(get_population(population))
    generator = torch.Generator().manual_seed(seed)
    methods: dict[str, ParameterPosterior | Estimate] = {
        "lsq gaussian": estimate("lsq", sample, noise_model="gaussian"),
        "lsq rician": estimate("lsq", sample),
        "gmvae newton": estimate("gmvae", sample, recognition="newton"),
        "gmvae network": estimate("gmvae", sample, recognition="network"),
        ORACLE: bayes_by_sampling(sample.run, sample.model, prior, generator=generator),
    }
    scored = []
    for name, estimated in methods.items():
        scored += scores(name, estimated, sample)
        scored.append(_angle(name, estimated.orientation, sample))
    return relative([*scored, *bounds(sample)], ORACLE)


def _angle(method: str, orientation: Tensor | None, sample: Sample) -> dict[str, Any]:
    """Score the fibre orientation as if it were a parameter."""
    if orientation is None:
        raise ValueError(f"{method} gives no orientation.")
    cosine = (orientation * sample.orientation).sum(dim=1).abs().clamp(max=1)
    angle = torch.rad2deg(torch.acos(cosine))[sample.labels == TISSUES["WM"]]
    return {
        "method": method,
        "tissue": "WM",
        "parameter": "angle",
        "rmse": float(angle.nanmedian()),
    }


def summarise(records: Sequence[Record]) -> Table:
    """Show errors and ratios side by side, and what is said about fluid."""
    fluid = [item for item in records if item["tissue"] == "CSF" and item["parameter"] == "f"]
    said = medians(fluid, [*CONDITION, "method"], FLUID)
    rows = side_by_side(records, CONDITION)
    return Table.of(
        [
            row | {f"CSF {name}": told[name] for name in FLUID}
            for row, told in zip(rows, said, strict=True)
        ]
    )


def draw(table: Table, figure: Figure) -> None:
    """Draw the ratios over SNR."""
    draw_ratios(table, figure, ["scheme"])
