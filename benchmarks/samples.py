"""Simulated voxels with known truth, estimators applied to them, and how far off they are.

SNR is S0 / sigma without weighting. S0 is 1 but unknown to every estimator; sigma is given to
them exactly, because how well it is estimated is a question of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.framework import Record, Table, medians, pivot
from benchmarks.oracles import cramer_rao
from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.gmvae import GMVAEFit
from bids_gmvae.posterior import ParameterPosterior, Status
from bids_gmvae.signal_models.base import SignalModel
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import get_population, sample_orientations, sample_population

TISSUES = {"WM": 1, "GM": 2, "CSF": 3}
SYMBOLS = {
    "diffusivity": "D", "kurtosis": "K",
    "stick_fraction": "f", "stick_diffusivity": "Dpar", "ball_diffusivity": "Diso",
}  # fmt: skip
#: Half width of the central 95 % interval of a normal, in standard deviations.
WIDTH_95 = 1.959964


class Estimated(Protocol):
    """What is scored: a mean and a standard deviation per voxel and parameter."""

    @property
    def mean(self) -> Tensor:
        """Estimate, (n_voxels, n_parameters), physical units."""

    @property
    def std(self) -> Tensor:
        """Claimed uncertainty, alike."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Voxels, what was measured in them, and the truth.

    Attributes
    ----------
    model : SignalModel
        The physics.
    run : Measurements
        What estimators see.
    values : Tensor of shape (n_voxels, n_parameters)
        True tissue parameters, in their units.
    labels : Tensor of int of shape (n_voxels,)
        Tissue, see `TISSUES`.
    orientation : Tensor of shape (n_voxels, 3)
        True fibre orientation.
    """

    model: SignalModel
    run: Measurements
    values: Tensor
    labels: Tensor
    orientation: Tensor

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise relative to S0."""
        return float(self.run.sigma[0])


def draw_sample(population: str, scheme: str, snr: float, *, n_voxels: int, seed: int) -> Sample:
    """Draw independent voxels of a population, each with a fibre orientation of its own.

    Voxels whose signal at the highest b-value is not below that at b = 0, which no tissue has, are
    left out: 0.3 % of ``msdki_paper``.
    """
    generator = torch.Generator().manual_seed(seed)
    model = get_population(population).model
    values, labels = sample_population(population, n_voxels, generator)
    if not model.directional:
        highest = get_scheme(scheme).bvals.max()[None]
        decays = model(values, Acquisition(bvals=highest))[:, 0] < 1 - 1e-9
        values, labels = values[decays], labels[decays]
    return measure(model, values, labels, scheme, snr, generator=generator)


def measure(
    model: SignalModel,
    values: Tensor,
    labels: Tensor,
    scheme: str,
    snr: float,
    *,
    generator: torch.Generator,
) -> Sample:
    """Measure voxels with given tissue parameters, with Rician noise."""
    orientation = sample_orientations(len(values), generator)
    acquisition = get_scheme(scheme)
    signals = simulate_signals(
        model,
        acquisition,
        values,
        orientation=orientation if model.directional else None,
        sigma=1 / snr,
        generator=generator,
    )
    run = Measurements(signals, torch.full_like(signals[:, 0], 1 / snr), acquisition)
    return Sample(model, run, values, labels, orientation)


def estimate(name: str, sample: Sample, **settings: Any) -> ParameterPosterior:
    """Fit an estimator to a sample and give its posterior; settings are `ModelSettings`."""
    fit = get_estimator(name)(sample.model, ModelSettings(**settings)).fit(sample.run)
    if isinstance(fit, GMVAEFit):
        return fit.posterior(sample.run, with_quantiles=True)
    return fit.posterior(sample.run)


def scores(
    method: str,
    estimated: Estimated,
    sample: Sample,
    groups: Mapping[str, int] = TISSUES,
) -> list[dict[str, Any]]:
    """Compare estimates with the truth, by tissue and parameter.

    Returns
    -------
    list of dict
        Method, tissue, parameter; ``rmse`` and ``bias``, diffusivities in um^2/ms; ``cov68`` and
        ``cov95``, the share of voxels whose interval holds the truth (central quantiles for 68 %
        where the posterior gives them, else mean +- sd; mean +- 1.96 sd for 95 %);
        ``cov68 kept`` and ``cov95 kept``, the same where the estimator does not itself mark the
        voxel as not identified; ``flagged``, the share where it does; ``failed``, the share
        without an estimate.
    """
    lower, upper = interval(estimated)
    within68 = (lower <= sample.values) & (sample.values <= upper)
    within95 = (estimated.mean - sample.values).abs() <= WIDTH_95 * estimated.std
    marked = flagged(estimated)
    found = []
    for tissue, label in groups.items():
        members = sample.labels == label
        for column, parameter in enumerate(sample.model.parameters):
            error = (estimated.mean - sample.values)[members, column] * scale_of(parameter.unit)
            kept = members & ~marked
            found.append(
                {
                    "method": method,
                    "tissue": tissue,
                    "parameter": SYMBOLS[parameter.name],
                    "rmse": float(error.square().nanmean().sqrt()),
                    "bias": float(error.nanmean()),
                    "cov68": _share(within68[members, column]),
                    "cov95": _share(within95[members, column]),
                    "cov68 kept": _share(within68[kept, column]),
                    "cov95 kept": _share(within95[kept, column]),
                    "flagged": _share(marked[members]),
                    "failed": _share(error.isnan()),
                }
            )
    return found


def interval(estimated: Estimated) -> tuple[Tensor, Tensor]:
    """Give the ends of the central 68 % interval of each parameter."""
    if isinstance(estimated, ParameterPosterior) and estimated.quantiles is not None:
        lower, upper = estimated.quantiles.unbind(-1)
        return lower, upper
    return estimated.mean - estimated.std, estimated.mean + estimated.std


def flagged(estimated: Estimated) -> Tensor:
    """Tell which voxels the estimator itself calls not identified, bool (n_voxels,)."""
    if isinstance(estimated, ParameterPosterior):
        return estimated.status == Status.UNIDENTIFIED
    return torch.zeros(len(estimated.mean), dtype=torch.bool)


def scale_of(unit: str) -> float:
    """Give the factor from a parameter's unit to that of the tables."""
    return 1e3 if unit == "mm^2/s" else 1.0


def relative(records: Sequence[dict[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Add ``ratio``: the RMSE over that of the reference method, tissue by tissue."""
    floor = {
        (record["tissue"], record["parameter"]): record["rmse"]
        for record in records
        if record["method"] == reference
    }
    return [
        {**record, "ratio": record["rmse"] / floor[record["tissue"], record["parameter"]]}
        for record in records
    ]


def side_by_side(records: Sequence[Record], condition: Sequence[str]) -> list[dict[str, Any]]:
    """Show medians of errors, and of ratios to the optimum in tissue, one method per row."""
    index = [*condition, "method"]
    cells = [*index, "parameter", "tissue"]
    across = ["parameter", "tissue"]
    tissue = [record for record in records if record["tissue"] != "CSF"]
    errors = pivot(medians(records, cells, ["rmse"]), across=across, values=["rmse"])
    ratios = pivot(medians(tissue, cells, ["ratio"]), across=across, values=["ratio"])
    return [
        error | {f"ratio {name}": item for name, item in ratio.items() if name not in index}
        for error, ratio in zip(errors, ratios, strict=True)
    ]


def draw_ratios(table: Table, figure: Figure, panels: Sequence[str]) -> None:
    """Draw the tissue error relative to the optimum over SNR, a panel for each condition."""
    cases = list(dict.fromkeys(tuple(row[name] for name in panels) for row in table.rows))
    ratios = [name for name in table.columns if name.startswith("ratio")]
    axes = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    for panel, case in zip(axes, cases, strict=True):
        for method in dict.fromkeys(row["method"] for row in table.rows):
            rows = table.where(method=method, **dict(zip(panels, case, strict=True)))
            heights = [
                statistics.mean(row[name] for name in ratios if row.get(name)) for row in rows
            ]
            panel.plot([row["snr"] for row in rows], heights, "o-", label=method, markersize=3)
        panel.set(title=", ".join(case), xlabel="SNR", xscale="log", ylim=(0.95, 2.5))
        levels = sorted({row["snr"] for row in table.rows})
        panel.set_xticks(levels, [f"{snr:g}" for snr in levels])
        panel.minorticks_off()
    axes[0].set_ylabel("RMSE / Bayes-optimal, mean over tissue parameters")
    axes[0].legend(fontsize=7)


def bounds(sample: Sample) -> list[dict[str, Any]]:
    """Score the Cramer-Rao bound as if it were a method; infinite bounds are left out."""
    bound = cramer_rao(
        sample.model,
        sample.run.acquisition,
        sample.values,
        sample.sigma,
        orientation=sample.orientation if sample.model.directional else None,
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


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
