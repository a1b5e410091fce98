"""How well is free water known, of which the data alone know little?

The populations and protocols of ``msdki``; in ``msdki_paper`` free water is the same everywhere
(sd .01 of D in um^2/ms and of K), in ``msdki`` it varies (sd .05). Under these shells its signal
is at the noise floor: one combination of D and K is all that a voxel tells. Methods: ``lsq``, and
``gmvae`` without and with ``--free-water-anchor``; the limit is the Bayes-optimal estimate.

Table: root mean square error in cerebrospinal fluid, how often 68 % intervals hold the truth, and
what the anchor does to tissue: the ratio of errors with and without it. Medians over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.framework import Effort, Record, Table, Task, medians, pivot, product
from benchmarks.msdki import ORACLE
from benchmarks.oracles import TruePrior, bayes_optimal
from benchmarks.samples import Estimated, draw_sample, estimate, relative, scores
from bids_gmvae.simulation.tissues import get_population

INDEX = ["population", "scheme", "snr", "method"]


def tasks(effort: Effort) -> list[Task]:
    """Cross populations, protocols and noise levels."""
    return product(
        compare,
        effort,
        population=("msdki_paper",) if effort.quick else ("msdki_paper", "msdki"),
        scheme=("hcp", "short"),
        snr=(20,) if effort.quick else (20, 50),
    )


def compare(
    population: str, scheme: str, snr: float, seed: int, n_voxels: int
) -> Sequence[Record]:
    """Fit the same voxels with and without the anchor."""
    sample = draw_sample(population, scheme, snr, n_voxels=n_voxels, seed=seed)
    methods: dict[str, Estimated] = {
        "lsq": estimate("lsq", sample),
        "gmvae": estimate("gmvae", sample),
        "gmvae anchored": estimate("gmvae", sample, free_water_anchor=True),
        ORACLE: bayes_optimal(sample.run, sample.model, TruePrior.of(get_population(population))),
    }
    scored = [row for name, found in methods.items() for row in scores(name, found, sample)]
    return relative(scored, "gmvae")


def summarise(records: Sequence[Record]) -> Table:
    """Show fluid, and beside it the price paid in tissue."""
    fluid = [record for record in records if record["tissue"] == "CSF"]
    tissue = [record for record in records if record["tissue"] != "CSF"]
    columns = ["rmse", "cov68"]
    rows = pivot(
        medians(fluid, [*INDEX, "parameter"], columns), across=["parameter"], values=columns
    )
    prices = pivot(
        medians(tissue, [*INDEX, "tissue", "parameter"], ["ratio"]),
        across=["parameter", "tissue"],
        values=["ratio"],
    )
    return Table.of([row | price for row, price in zip(rows, prices, strict=True)])


def draw(table: Table, figure: Figure) -> None:
    """Draw the errors in fluid over SNR."""
    panels = figure.subplots(1, 2, sharex=True)
    populations = list(dict.fromkeys(row["population"] for row in table.rows))
    for axes, parameter in zip(panels, ("D", "K"), strict=True):
        for column, method in enumerate(dict.fromkeys(row["method"] for row in table.rows)):
            for population, style in zip(populations, ("-", "--"), strict=False):
                rows = table.where(method=method, population=population, scheme="hcp")
                axes.loglog(
                    [row["snr"] for row in rows],
                    [row[f"{parameter} rmse"] for row in rows],
                    style,
                    color=f"C{column}",
                    marker="o",
                    markersize=3,
                    label=f"{method}, {population}",
                )
        axes.set(title=f"error of {parameter} in free water, hcp", xlabel="SNR")
    panels[1].legend(fontsize=7)
