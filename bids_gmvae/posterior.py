"""What an estimator says about every voxel, and the maps that follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from bids_gmvae.signal_models.base import Parameter, SignalModel


class Status(IntEnum):
    """What became of a voxel; the codes of the status map."""

    OUTSIDE = 0
    FITTED = 1
    AT_BOUND = 2
    NOT_CONVERGED = 3
    NOT_FINITE = 4
    NO_SIGNAL_SUPPORT = 5
    UNIDENTIFIED = 6


STATUS_DESCRIPTIONS: Mapping[Status, str] = {
    Status.OUTSIDE: "Outside the mask",
    Status.FITTED: "Fitted",
    Status.AT_BOUND: "Fitted; a parameter lies at its physical bound",
    Status.NOT_CONVERGED: "The fit did not converge; the maps hold NaN",
    Status.NOT_FINITE: "The signal is not finite, or constant; the maps hold NaN",
    Status.NO_SIGNAL_SUPPORT: "In the given mask but without signal; not fitted",
    Status.UNIDENTIFIED: (
        "Fitted, but the data hardly constrain a parameter, or the fibre's direction"
    ),
}

#: Voxels with these codes hold no estimate.
FAILED = (Status.NOT_CONVERGED, Status.NOT_FINITE)


@dataclass(frozen=True, eq=False)
class ParameterMap:
    """One quantity over all voxels.

    Attributes
    ----------
    parameter : Parameter
        What it is a map of.
    statistic : str
        ``mean``, ``std``, ``priorinfluence`` or ``samples``: the ``desc-`` of the file name.
    values : Tensor of shape (n_voxels,), of samples (n_voxels, n_samples)
        In `unit`; NaN where the fit failed.
    unit : str
        Unit of the values.
    description : str
        One line for the sidecar.
    """

    parameter: Parameter
    statistic: str
    values: Tensor
    unit: str
    description: str


STATISTICS: Mapping[str, str] = {
    "mean": "{name}; posterior mean",
    "std": "{name}; posterior standard deviation",
    "priorinfluence": (
        "{name}; share of the estimate's information that came from the population prior, "
        "0 (all from this voxel's data) to 1 (all from the prior)"
    ),
    "samples": "{name}; draws from the posterior, the same draw of all parameters of a voxel",
}


@dataclass(frozen=True, eq=False)
class ParameterPosterior:
    """Posterior of the tissue parameters of every voxel of one run.

    Attributes
    ----------
    signal_model : SignalModel
        The model whose parameters these are.
    mean, std : Tensor of shape (n_voxels, n_parameters)
        Posterior mean and standard deviation, physical units. NaN where the fit failed.
    status : Tensor of int of shape (n_voxels,)
        `Status` codes.
    s0 : Tensor of shape (n_voxels,)
        Unweighted signal, in units of the image.
    residual : Tensor of shape (n_voxels,)
        Root mean square of the residuals divided by the noise sd; 1 where the model is right.
    shell_residual : Tensor of shape (n_voxels, n_shells)
        The same by shell.
    prior_influence : Tensor of shape (n_voxels, n_parameters), optional
        See `STATISTICS`. None for estimators without a prior.
    responsibilities : Tensor of shape (n_voxels, n_components), optional
        Probability of each learnt tissue component (the unexpected one apart).
    unexpected : Tensor of shape (n_voxels,), optional
        Probability of the broad component: tissue unlike the learnt population.
    orientation : Tensor of shape (n_voxels, 3), optional
        Fibre orientation, unit vector in the frame of the gradient directions.
    quantiles : Tensor of shape (n_voxels, n_parameters, 2), optional
        Central 68 % interval, physical units; if asked for.
    samples : Tensor of shape (n_voxels, n_parameters, n_samples), optional
        Draws from the joint posterior of the parameters, physical units; if asked for.
    derived : mapping of Parameter to (mean, std)
        Quantities that follow from the parameters, each Tensor of shape (n_voxels,).
    """

    signal_model: SignalModel
    mean: Tensor
    std: Tensor
    status: Tensor
    s0: Tensor
    residual: Tensor
    shell_residual: Tensor
    prior_influence: Tensor | None = None
    responsibilities: Tensor | None = None
    unexpected: Tensor | None = None
    orientation: Tensor | None = None
    quantiles: Tensor | None = None
    samples: Tensor | None = None
    derived: Mapping[Parameter, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def maps(self) -> Iterator[ParameterMap]:
        """Yield one map per parameter and statistic, then the derived ones.

        Estimators that do not know a standard deviation give NaN, of which no map is made.
        """
        for index, parameter in enumerate(self.signal_model.parameters):
            yield from _mean_and_std(parameter, self.mean[:, index], self.std[:, index])
            if self.prior_influence is not None:
                yield _map(parameter, "priorinfluence", self.prior_influence[:, index])
            if self.samples is not None:
                yield _map(parameter, "samples", self.samples[:, index])
        for parameter, (mean, std) in self.derived.items():
            yield from _mean_and_std(parameter, mean, std)

    def tensors(self) -> dict[str, Tensor]:
        """Give everything as named tensors, ready to be saved."""
        present = {
            name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None
        }
        for parameter, (mean, std) in self.derived.items():
            present[f"derived.{parameter.name}.mean"] = mean
            present[f"derived.{parameter.name}.std"] = std
        return present

    @classmethod
    def from_tensors(
        cls, signal_model: SignalModel, tensors: Mapping[str, Tensor]
    ) -> ParameterPosterior:
        """Rebuild a posterior from what `tensors` gave."""
        derived = {
            parameter: (
                tensors[f"derived.{parameter.name}.mean"],
                tensors[f"derived.{parameter.name}.std"],
            )
            for parameter in signal_model.derived(tensors["mean"])
        }
        own = {name: tensors[name] for name in _TENSORS if name in tensors}
        return cls(signal_model=signal_model, derived=derived, **own)


_TENSORS = (
    "mean", "std", "status", "s0", "residual", "shell_residual", "prior_influence",
    "responsibilities", "unexpected", "orientation", "quantiles", "samples",
)  # fmt: skip


def concatenate(posteriors: list[ParameterPosterior]) -> ParameterPosterior:
    """Join the posteriors of consecutive chunks of voxels."""
    parts = [posterior.tensors() for posterior in posteriors]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return ParameterPosterior.from_tensors(posteriors[0].signal_model, joined)


def _mean_and_std(parameter: Parameter, mean: Tensor, std: Tensor) -> Iterator[ParameterMap]:
    yield _map(parameter, "mean", mean)
    if not std.isnan().all():
        yield _map(parameter, "std", std)


def _map(parameter: Parameter, statistic: str, values: Tensor) -> ParameterMap:
    return ParameterMap(
        parameter=parameter,
        statistic=statistic,
        values=values,
        unit="" if statistic == "priorinfluence" else parameter.unit,
        description=STATISTICS[statistic].format(name=parameter.description),
    )
