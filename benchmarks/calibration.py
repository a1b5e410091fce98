"""Do the intervals hold the truth as often as they promise?

The populations and protocols of ``msdki`` and ``ball_stick``; Rician noise; S0 and orientation
unknown, noise level known. The 68 % interval lies between the posterior's quantiles (``lsq``: one
standard deviation, the Cramer-Rao bound at the estimate, to either side of the estimate), the 95 %
interval within 1.96 standard deviations of the mean.

Table: the share of voxels whose interval holds the truth, by tissue, medians over seeds; ``kept``
counts only voxels that the estimator does not itself mark as not identified, ``flagged`` is the
share of those that it does.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.framework import Effort, Record, Table, Task, medians, pivot, product
from benchmarks.samples import draw_sample, estimate, scores

INDEX = ["population", "scheme", "snr", "method", "parameter"]
COVERAGE = ["cov68", "cov95"]
FLUID = ["cov68 kept", "cov95 kept", "flagged"]


def tasks(effort: Effort) -> list[Task]:
    """Cross models and protocols with the noise levels."""
    levels = (20,) if effort.quick else (20, 50, 100)
    kurtosis = product(cover, effort, population=("msdki",), scheme=("hcp", "short"), snr=levels)
    fibres = product(cover, effort, population=("ball_stick",), scheme=("hcp",), snr=levels)
    return [*kurtosis, *fibres]


def cover(population: str, scheme: str, snr: float, seed: int, n_voxels: int) -> Sequence[Record]:
    """Count the voxels whose intervals hold the truth."""
    sample = draw_sample(population, scheme, snr, n_voxels=n_voxels, seed=seed)
    methods = {
        "lsq": estimate("lsq", sample),
        "gmvae": estimate("gmvae", sample),
    }
    return [row for name, posterior in methods.items() for row in scores(name, posterior, sample)]


def summarise(records: Sequence[Record]) -> Table:
    """Show tissues side by side, and for fluid also what is left of it."""
    rows = pivot(
        medians(records, [*INDEX, "tissue"], COVERAGE), across=["tissue"], values=COVERAGE
    )
    fluid = [record for record in records if record["tissue"] == "CSF"]
    said = medians(fluid, INDEX, FLUID)
    return Table.of(
        [
            row | {f"CSF {name}": told[name] for name in FLUID}
            for row, told in zip(rows, said, strict=True)
        ]
    )


def draw(table: Table, figure: Figure) -> None:
    """Draw the coverage of every parameter in tissue."""
    panels = figure.subplots(1, 2, sharex=True)
    promises = {"cov68": (0.68, (0.66, 0.70)), "cov95": (0.95, (0.94, 0.965))}
    methods = list(dict.fromkeys(row["method"] for row in table.rows))
    for axes, (name, (promised, goal)) in zip(panels, promises.items(), strict=True):
        axes.axhspan(*goal, color="0.9")
        axes.axhline(promised, color="0.6", linewidth=0.8)
        for method in methods:
            rows = table.where(method=method)
            for tissue, marker in (("WM", "o"), ("GM", "s")):
                axes.plot(
                    [row["snr"] * 1.06 ** methods.index(method) for row in rows],
                    [row[f"{tissue} {name}"] for row in rows],
                    marker,
                    color=f"C{methods.index(method)}",
                    label=f"{method}, {tissue}",
                    markersize=3,
                )
        axes.set(
            title=name, xlabel="SNR", xscale="log", ylim=(promised - 0.2, min(promised + 0.2, 1))
        )
    panels[0].set_ylabel("share of voxels, every model, protocol and parameter")
    panels[1].legend(fontsize=7)
