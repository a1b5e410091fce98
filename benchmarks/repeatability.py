"""Repeatability: how much maps differ between two scans of the same head.

Voxels of the populations of `msdki` and `ball_stick`, half as many as elsewhere, are measured
twice with the HCP and the short protocol; only the noise differs. Noise levels are known. Each
scan is estimated by itself: the prior of ``gmvae`` is learnt anew. Methods: Gaussian least squares
and Rician maximum likelihood (``lsq``), and ``gmvae``.

Table: within-voxel coefficient of variation by tissue and parameter, in %: root mean square over
voxels of |x1 - x2| / sqrt(2), over the tissue's true mean. Medians over seeds. An estimator that
gave the same value everywhere would repeat perfectly: ``keep`` is therefore beside it, the share
of the true variation between voxels that the mean of the two maps shows (slope of the regression
on the truth).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.framework import Effort, Record, Table, Task, medians, pivot, product
from benchmarks.samples import SYMBOLS, Sample, draw_sample, estimate
from bids_gmvae.simulation.noise import simulate_signals

TISSUES = {"WM": 1, "GM": 2}
#: Settings of the estimators.
METHODS: dict[str, dict[str, str]] = {
    "lsq gaussian": {"name": "lsq", "noise_model": "gaussian"},
    "lsq rician": {"name": "lsq"},
    "gmvae": {"name": "gmvae"},
}
CONDITION = ["population", "scheme", "snr"]


def tasks(effort: Effort) -> list[Task]:
    """Cross models, protocols and noise levels."""
    return product(
        scan_twice,
        effort,
        settings={"n_voxels": effort.n_voxels // 2},
        population=("msdki", "ball_stick"),
        scheme=("short",) if effort.quick else ("hcp", "short"),
        snr=(20,) if effort.quick else (10, 20, 50),
    )


def scan_twice(
    population: str, scheme: str, snr: float, seed: int, n_voxels: int
) -> list[dict[str, Any]]:
    """Estimate two scans, and compare them voxel by voxel."""
    first = draw_sample(population, scheme, snr, n_voxels=n_voxels, seed=seed)
    scans = (first, scan_again(first, seed))
    found = []
    for method, settings in METHODS.items():
        one, other = (estimate(sample=scan, **settings).mean for scan in scans)
        for tissue, label in TISSUES.items():
            members = first.labels == label
            for column, parameter in enumerate(first.model.parameters):
                pair = one[members, column], other[members, column]
                truth = first.values[members, column]
                found.append(
                    {
                        "method": method,
                        "tissue": tissue,
                        "parameter": SYMBOLS[parameter.name],
                        "CoV %": 100 * variation(*pair) / float(truth.mean()),
                        "keep": slope(truth, (pair[0] + pair[1]) / 2),
                    }
                )
    return found


def scan_again(sample: Sample, seed: int) -> Sample:
    """Measure the same voxels with other noise."""
    signals = simulate_signals(
        sample.model,
        sample.run.acquisition,
        sample.values,
        orientation=sample.orientation if sample.model.directional else None,
        sigma=sample.sigma,
        generator=torch.Generator().manual_seed(1000 + seed),
    )
    return replace(sample, run=replace(sample.run, signals=signals))


def variation(one: Tensor, other: Tensor) -> float:
    """Give the within-voxel standard deviation of two measurements (n_voxels,) of each voxel."""
    return float(((one - other).square().nanmean() / 2).sqrt())


def slope(truth: Tensor, estimated: Tensor) -> float:
    """Regress estimates on the truth, both (n_voxels,)."""
    known = estimated.isfinite()
    truth, estimated = truth[known], estimated[known]
    centred = truth - truth.mean()
    return float((centred * estimated).sum() / centred.square().sum())


def summarise(records: Sequence[Record]) -> Table:
    """Give one row per condition, parameter and tissue, methods side by side."""
    rows = medians(records, [*CONDITION, "parameter", "tissue", "method"], ["CoV %", "keep"])
    return Table.of(pivot(rows, across=["method"], values=["CoV %", "keep"]))


def draw(table: Table, figure: Figure) -> None:
    """Draw the variation relative to Rician maximum likelihood, over SNR."""
    cases = list(dict.fromkeys((row["population"], row["scheme"]) for row in table.rows))
    axes = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    for axis, (population, scheme) in zip(axes, cases, strict=True):
        shown = table.where(population=population, scheme=scheme)
        for parameter, tissue in dict.fromkeys((r["parameter"], r["tissue"]) for r in shown):
            rows = [r for r in shown if (r["parameter"], r["tissue"]) == (parameter, tissue)]
            ratios = [row["gmvae CoV %"] / row["lsq rician CoV %"] for row in rows]
            axis.plot([r["snr"] for r in rows], ratios, "o-", label=f"{parameter} {tissue}")
        axis.set(title=f"{population}, {scheme}", xlabel="SNR", xscale="log", ylim=(0, 1.1))
        axis.legend(fontsize=7)
    axes[0].set_ylabel("CoV of gmvae / lsq")
