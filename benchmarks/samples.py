"""Simulated voxels with known truth, estimators applied to them, and how far off they are.

SNR is S0 / sigma without weighting. S0 is 1 but unknown to every estimator; sigma is given to
them exactly, because how well it is estimated is a question of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
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
    """Draw independent voxels of a population, each with a fibre orientation of its own."""
    generator = torch.Generator().manual_seed(seed)
    values, labels = sample_population(population, n_voxels, generator)
    return measure(
        get_population(population).model, values, labels, scheme, snr, generator=generator
    )


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
    estimator = get_estimator(name)(sample.model, ModelSettings(**settings))
    return estimator.fit(sample.run).posterior(sample.run)


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
        where the posterior gives them, else mean +- sd; mean +- 1.96 sd for 95 %); ``failed``
        and ``flagged``, the shares without an estimate, and marked as not identified.
    """
    lower, upper = interval(estimated)
    found = []
    for tissue, label in groups.items():
        members = sample.labels == label
        for column, parameter in enumerate(sample.model.parameters):
            truth, mean, std = (
                item[members, column] * scale_of(parameter.unit)
                for item in (sample.values, estimated.mean, estimated.std)
            )
            error = (mean - truth)[mean.isfinite()]
            inside = (lower <= sample.values) & (sample.values <= upper)
            found.append(
                {
                    "method": method,
                    "tissue": tissue,
                    "parameter": SYMBOLS[parameter.name],
                    "rmse": float(error.square().mean().sqrt()),
                    "bias": float(error.mean()),
                    "cov68": _share(inside[members, column]),
                    "cov95": _share((mean - truth).abs() <= WIDTH_95 * std),
                    "failed": _share(~mean.isfinite()),
                    "flagged": _share(flagged(estimated)[members]),
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


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
