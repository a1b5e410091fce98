"""How well a fit explains the data, in units of the noise."""

from __future__ import annotations

import torch
from torch import Tensor

from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.likelihoods import get_noise_model
from bids_gmvae.posterior import Status
from bids_gmvae.signal_models.base import SignalModel

#: Share of a parameter's range next to a bound that counts as lying at the bound.
BOUND_MARGIN = 0.005


def usable_voxels(run: Measurements) -> Tensor:
    """Tell which voxels can be fitted: finite, with signal and a noise level, (n_voxels,)."""
    finite = torch.isfinite(run.signals).all(dim=1) & torch.isfinite(run.sigma)
    varies = run.signals.amax(dim=1) > run.signals.amin(dim=1)
    return finite & varies & (run.sigma > 0) & (run.signals.amax(dim=1) > 0)


def standardised_residuals(problem: Problem, state: State, freedom: Tensor) -> Tensor:
    """Divide the residuals by their standard deviation.

    Parameters
    ----------
    problem : Problem
        The data.
    state : State
        The fit.
    freedom : Tensor of shape (n_voxels, n_data)
        Share of each datum's residual variance that the fit left (1 - leverage).

    Returns
    -------
    Tensor of shape (n_voxels, n_data)
        Root mean square 1 where model and noise level are right. NaN where the fit
        follows the datum so closely that its residual says nothing.
    """
    noise = get_noise_model(problem.noise_model)(problem.predict(state), problem.sigma[:, None])
    scale = (noise.variance / problem.counts).sqrt()
    residual = (problem.data - noise.mean) / scale
    nothing = torch.full_like(residual, torch.nan)
    return torch.where(freedom > 0.05, residual / freedom.clamp(min=0.05).sqrt(), nothing)


def summarise_residuals(problem: Problem, residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Give the root mean square residual over everything, and by shell.

    Returns
    -------
    overall : Tensor of shape (n_voxels,)
    by_shell : Tensor of shape (n_voxels, n_shells)
    """
    squared = residuals**2
    overall = squared.nanmean(dim=1).sqrt()
    if problem.averaged:
        return overall, residuals.abs()
    columns = [
        squared[:, problem.shells.index == shell].nanmean(dim=1).sqrt()
        for shell in range(len(problem.shells))
    ]
    return overall, torch.stack(columns, dim=1)


def at_bound(signal_model: SignalModel, values: Tensor) -> Tensor:
    """Tell where a parameter (n_voxels, n_parameters) lies at a physical bound, (n_voxels,)."""
    lower = torch.tensor([parameter.lower for parameter in signal_model.parameters]).to(values)
    upper = torch.tensor([parameter.upper for parameter in signal_model.parameters]).to(values)
    margin = BOUND_MARGIN * (upper - lower)
    return ((values < lower + margin) | (values > upper - margin)).any(dim=1)


def status_of(usable: Tensor, converged: Tensor, bound: Tensor, unidentified: Tensor) -> Tensor:
    """Combine findings (n_voxels,) each into status codes; the gravest wins."""
    status = torch.full_like(usable, int(Status.FITTED), dtype=torch.uint8)
    status[unidentified] = int(Status.UNIDENTIFIED)
    status[bound] = int(Status.AT_BOUND)
    status[~converged] = int(Status.NOT_CONVERGED)
    status[~usable] = int(Status.NOT_FINITE)
    return status
