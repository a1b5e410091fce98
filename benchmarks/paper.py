"""The MS-DKI simulation of Xu et al. 2024 (https://doi.org/10.48550/arXiv.2411.10772).

Voxels of white matter, grey matter and fluid with (D, K) = (1.0, 1.5), (1.5, 1.0), (3.0, 0), in
shares of .5, .4, .1; standard deviation .1 (fluid .01): read as a variance, the paper's .1 would
make a fifth of the signals rise with b. 18 b0 + 90 volumes at each of 1000, 2000, 3000 s/mm^2,
Rician noise, S0 unknown.

The paper's three estimators (``mlp``, ``vae_unig``, ``vae_gmm`` with 4 components) with its
settings (latent size 256, weight of the divergence 1e-3, 100 epochs), ``gmvae`` with its own, and
the Bayes-optimal estimate. A seed has collapsed if D or K is further from the truth than one
constant for all voxels would be. The paper shows its errors as a picture only; beside ours stand
those of the released code, run on noisy data: the best of the seeds tried, where any did not
collapse.

Table: root mean square error of D (um^2/ms) and K by tissue, medians over seeds, and how many
seeds collapsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.framework import Effort, Record, Table, Task, medians, pivot, product
from benchmarks.oracles import TruePrior, bayes_optimal
from benchmarks.samples import Estimated, draw_sample, estimate, scores
from bids_gmvae.simulation.tissues import get_population

POPULATION = "msdki_paper"
ORACLE = "Bayes-optimal"
NETWORKS = ("mlp", "vae_unig", "vae_gmm")
CELLS = ("D WM", "D GM", "K WM", "K GM")
#: Errors of the released code by SNR and estimator, in the order of `CELLS`.
RELEASED = {
    (20, "vae_unig"): (0.032, 0.053, 0.038, 0.037),
    (20, "vae_gmm"): (0.152, 0.266, 0.090, 0.165),
    (50, "mlp"): (0.027, 0.041, 0.033, 0.025),
    (50, "vae_unig"): (0.027, 0.039, 0.033, 0.028),
    (50, "vae_gmm"): (0.023, 0.036, 0.029, 0.027),
    (100, "vae_unig"): (0.079, 0.162, 0.058, 0.071),
    (100, "vae_gmm"): (0.079, 0.181, 0.077, 0.093),
}


def tasks(effort: Effort) -> list[Task]:
    """Cross estimators and noise levels; train for shorter when in a hurry."""
    return product(
        fit,
        effort,
        settings={"n_voxels": effort.n_voxels, "n_epochs": 10 if effort.quick else 100},
        snr=(50,),
        method=(*NETWORKS, "gmvae", ORACLE),
    )


def fit(snr: float, method: str, seed: int, n_voxels: int, n_epochs: int) -> Sequence[Record]:
    """Train one estimator from one seed, which also draws its data."""
    sample = draw_sample(POPULATION, "hcp", snr, n_voxels=n_voxels, seed=seed)
    found: Estimated
    if method == ORACLE:
        prior = TruePrior.of(get_population(POPULATION))
        found = bayes_optimal(sample.run, sample.model, prior)
    elif method in NETWORKS:
        found = estimate(method, sample, n_epochs=n_epochs, n_components=4, random_seed=seed)
    else:
        found = estimate(method, sample, random_seed=seed)
    error = (found.mean - sample.values).square().nanmean(dim=0).sqrt()
    collapsed = bool((error > sample.values.std(dim=0)).any())
    return [row | {"collapsed": collapsed} for row in scores(method, found, sample)]


def summarise(records: Sequence[Record]) -> Table:
    """Show errors by tissue, and collapsed seeds; the released code below."""
    errors = medians(records, ["snr", "method", "parameter", "tissue"], ["rmse"])
    rows = pivot(errors, across=["parameter", "tissue"], values=["rmse"])
    for row in rows:
        seeds = {
            item["seed"]: item["collapsed"]
            for item in records
            if (item["snr"], item["method"]) == (row["snr"], row["method"])
        }
        row["collapsed"] = f"{sum(seeds.values())} of {len(seeds)}"
    for (snr, method), released in RELEASED.items():
        if any(row["snr"] == snr for row in rows):
            known: dict[str, Any] = dict(zip(CELLS, released, strict=True))
            rows.append({"snr": snr, "method": f"released {method}", **known})
    return Table.of(sorted(rows, key=lambda row: row["snr"]))


def draw(table: Table, figure: Figure) -> None:
    """Draw the errors in tissue over SNR."""
    panels = figure.subplots(1, len(CELLS))
    methods = list(dict.fromkeys(row["method"] for row in table.rows))
    for axes, cell in zip(panels, CELLS, strict=True):
        for method in methods:
            rows = table.where(method=method)
            style = "x" if method.startswith("released") else "o-"
            axes.plot(
                [row["snr"] for row in rows],
                [row[cell] for row in rows],
                style,
                label=method,
                markersize=4,
            )
        axes.set(title=cell, xlabel="SNR", xscale="log", yscale="log")
    panels[0].set_ylabel("RMSE")
    panels[0].legend(fontsize=6)
