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

import torch
from matplotlib.figure import Figure

from benchmarks.framework import Effort, Record, Table, Task, product
from benchmarks.oracles import Estimate, TruePrior, bayes_optimal
from benchmarks.samples import (
    Estimated,
    Sample,
    bounds,
    draw_ratios,
    draw_sample,
    estimate,
    relative,
    scores,
    side_by_side,
)
from bids_gmvae.simulation.tissues import get_population

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


def summarise(records: Sequence[Record]) -> Table:
    """Show errors and ratios side by side."""
    return Table.of(side_by_side(records, ["population", "scheme", "snr"]))


def draw(table: Table, figure: Figure) -> None:
    """Draw the ratios over SNR."""
    draw_ratios(table, figure, ["population", "scheme"])
