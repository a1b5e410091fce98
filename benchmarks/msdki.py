"""MS-DKI against its limits.

Voxels of white matter, grey matter and cerebrospinal fluid are drawn from two populations: the
one of Xu et al. 2024 (``msdki_paper``) and a realistic one (``msdki``). Signals are powder
averages, the same in all directions, with Rician noise; two protocols: ``hcp``, 18 b0 + 90
volumes at each of 1000, 2000, 3000 s/mm^2, and ``short``, 2 b0 + 10 each. S0 is unknown to all
methods, the noise level known.

Methods: dipy's ``MeanDiffusionKurtosisModel`` (weighted least squares), Rician maximum likelihood
(``lsq``), ``gmvae`` with both recognitions. Limits: the Bayes-optimal estimate under the true
population, and the Cramer-Rao bound of unbiased estimators (root mean square over voxels where
it is finite: beyond the monotone decay of the model nothing tells K).

Table: root mean square error of D (um^2/ms) and K by tissue, medians over seeds, and its ratio to
the Bayes-optimal one of the same voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.framework import Effort, Record, Table, Task, medians, pivot, product
from benchmarks.oracles import Estimate, TruePrior, bayes_optimal, cramer_rao
from benchmarks.samples import (
    SYMBOLS,
    TISSUES,
    Estimated,
    Sample,
    draw_sample,
    estimate,
    relative,
    scale_of,
    scores,
)
from bids_gmvae.simulation.tissues import get_population

CONDITION = ["population", "scheme", "snr"]
ORACLE = "Bayes-optimal"


def tasks(effort: Effort) -> list[Task]:
    """Cross populations, protocols and noise levels."""
    return product(
        compare,
        effort,
        population=("msdki_paper", "msdki"),
        scheme=("hcp", "short"),
        snr=(20,) if effort.quick else (10, 20, 50, 100),
    )


def compare(
    population: str, scheme: str, snr: float, seed: int, n_voxels: int
) -> Sequence[Record]:
    """Score all methods on the same voxels."""
    sample = draw_sample(population, scheme, snr, n_voxels=n_voxels, seed=seed)
    prior = TruePrior.of(get_population(population))
    methods: dict[str, Estimated] = {
        "dipy": dipy_msdki(sample),
        "lsq": estimate("lsq", sample),
        "gmvae newton": estimate("gmvae", sample, recognition="newton"),
        "gmvae network": estimate("gmvae", sample, recognition="network"),
        ORACLE: bayes_optimal(sample.run, sample.model, prior),
    }
    scored = [
        row for name, estimated in methods.items() for row in scores(name, estimated, sample)
    ]
    return relative([*scored, *bounds(sample)], ORACLE)


def dipy_msdki(sample: Sample) -> Estimate:
    """Fit with dipy; it gives no standard deviation."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.msdki import MeanDiffusionKurtosisModel

    acquisition = sample.run.acquisition
    table = gradient_table(acquisition.bvals.numpy(), bvecs=acquisition.bvecs.numpy())
    fit = MeanDiffusionKurtosisModel(table).fit(sample.run.signals.numpy())
    values = torch.stack([torch.from_numpy(fit.msd), torch.from_numpy(fit.msk)], dim=1)
    return Estimate(values, torch.full_like(values, torch.nan))


def bounds(sample: Sample) -> list[dict[str, Any]]:
    """Give the Cramer-Rao bound as if it were a method."""
    orientation = sample.orientation if sample.model.directional else None
    bound = cramer_rao(
        sample.model, sample.run.acquisition, sample.values, sample.sigma, orientation=orientation
    )
    bound = torch.where(bound.isfinite(), bound, torch.nan)
    return [
        {
            "method": "Cramer-Rao",
            "tissue": tissue,
            "parameter": SYMBOLS[parameter.name],
            "rmse": float(bound[sample.labels == label, column].square().nanmean().sqrt())
            * scale_of(parameter.unit),
        }
        for tissue, label in TISSUES.items()
        for column, parameter in enumerate(sample.model.parameters)
    ]


def summarise(records: Sequence[Record]) -> Table:
    """Show errors, and ratios to the optimum in tissue, side by side."""
    index = [*CONDITION, "method"]
    median = medians(records, [*index, "parameter", "tissue"], ["rmse", "ratio"])
    errors = pivot(_keep(median, "rmse"), across=["parameter", "tissue"], values=["rmse"])
    tissue = [row for row in _keep(median, "ratio") if row["tissue"] != "CSF"]
    ratios = pivot(tissue, across=["parameter", "tissue"], values=["ratio"])
    shown = [
        {
            **error,
            **{f"ratio {name}": value for name, value in ratio.items() if name not in index},
        }
        for error, ratio in zip(errors, ratios, strict=True)
    ]
    return Table.of(shown)


def _keep(rows: Sequence[Record], value: str) -> list[dict[str, Any]]:
    other = {"rmse": "ratio", "ratio": "rmse"}[value]
    return [{name: item for name, item in row.items() if name != other} for row in rows]


def draw(table: Table, figure: Figure) -> None:
    """Draw the tissue error relative to the optimum over SNR."""
    cases = list(dict.fromkeys((row["population"], row["scheme"]) for row in table.rows))
    ratios = [name for name in table.columns if name.startswith("ratio")]
    for axes, (population, scheme) in zip(
        figure.subplots(1, len(cases), sharey=True), cases, strict=True
    ):
        for method in dict.fromkeys(row["method"] for row in table.rows):
            rows = table.where(population=population, scheme=scheme, method=method)
            heights = [sum(row[name] for name in ratios) / len(ratios) for row in rows]
            axes.plot([row["snr"] for row in rows], heights, "o-", label=method, markersize=3)
        axes.set(title=f"{population}, {scheme}", xlabel="SNR", xscale="log", ylim=(0.95, 2.5))
    figure.axes[0].set_ylabel("RMSE / Bayes-optimal, tissue mean of D and K")
    figure.axes[0].legend(fontsize=7)
