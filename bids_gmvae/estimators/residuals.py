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
#: Residuals with fewer degrees of freedom than this say nothing.
MIN_FREEDOM = 0.02


def usable_voxels(run: Measurements) -> Tensor:
    """Tell which voxels can be fitted: finite, with signal and a noise level, (n_voxels,)."""
    lowest, highest = torch.aminmax(run.signals, dim=1)
    finite = torch.isfinite(lowest) & torch.isfinite(highest) & torch.isfinite(run.sigma)
    return finite & (highest > lowest) & (highest > 0) & (run.sigma > 0)


def leverage(problem: Problem, state: State, prior_precision: Tensor | None = None) -> Tensor:
    """Give the share of each datum's noise that the fit follows.

    Parameters
    ----------
    problem : Problem
        The data.
    state : State
        The fit.
    prior_precision : Tensor of shape (n_voxels, n_parameters, n_parameters), optional
        Precision of the prior that held the latents back.

    Returns
    -------
    Tensor of shape (n_voxels, n_data)
        The diagonal of the hat matrix, within [0, 1].
    """
    signal, jacobian = problem.jacobian(state)
    weighted = problem.evaluate(signal)[2].clamp(min=0).sqrt()[..., None] * jacobian
    curvature = weighted.transpose(1, 2) @ weighted
    if prior_precision is not None:
        block = slice(1, 1 + problem.n_parameters)
        curvature[:, block, block] += prior_precision
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    ridge = 1e-9 * diagonal.amax(dim=1, keepdim=True).clamp(min=1e-12)
    curvature = curvature + torch.diag_embed(ridge.expand_as(diagonal))
    solved = torch.linalg.solve_ex(curvature, weighted.transpose(1, 2))[0]
    return torch.einsum("vmp,vpm->vm", weighted, solved).clamp(0, 1)


def fit_residuals(
    problem: Problem, state: State, prior_precision: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Give `summarise_residuals` of a fit to each voxel, with its `leverage`."""
    if not problem.is_compiled:
        return summarise_residuals(problem, state, leverage(problem, state, prior_precision))
    from bids_gmvae.estimators.compiled import explain_voxels  # compiles

    if prior_precision is None:
        prior_precision = torch.zeros_like(state.z[:, :, None] * state.z[:, None, :])
    squared, freedom = explain_voxels(problem, state, prior_precision, _shell(problem))
    return _root_ratio(squared.sum(dim=1), freedom.sum(dim=1)), _root_ratio(squared, freedom)


def summarise_residuals(
    problem: Problem, state: State, leverage: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Give the root mean square residual in units of the noise, overall and by shell.

    Both are corrected for the degrees of freedom that the fit used up, so that their mean
    square over many voxels is 1 where model and noise level are right.

    Parameters
    ----------
    problem : Problem
        The data.
    state : State
        The fit.
    leverage : Tensor of shape (n_voxels, n_data) or float
        What `leverage` gives; 0 for fits that are not adjusted to each voxel.

    Returns
    -------
    overall : Tensor of shape (n_voxels,)
    by_shell : Tensor of shape (n_voxels, n_shells)
        NaN where the fit follows a shell so closely that its residuals say nothing.
    """
    noise = get_noise_model(problem.noise_model)(problem.predict(state), problem.sigma[:, None])
    squared = (problem.data - noise.mean) ** 2 * problem.counts / noise.variance
    freedom = torch.ones_like(squared) - leverage
    by_shell = squared.new_zeros(2, len(squared), len(problem.shells)).index_add(
        2, _shell(problem), torch.stack([squared, freedom])
    )
    return _root_ratio(*torch.stack([squared, freedom]).sum(dim=2)), _root_ratio(*by_shell)


def _shell(problem: Problem) -> Tensor:
    """Give the shell of each datum, (n_data,)."""
    shell = problem.shells.index
    return torch.arange(len(problem.shells)).to(shell) if problem.averaged else shell


def _root_ratio(squared: Tensor, freedom: Tensor) -> Tensor:
    ratio = (squared / freedom.clamp(min=MIN_FREEDOM)).sqrt()
    return torch.where(freedom < MIN_FREEDOM, torch.full_like(ratio, torch.nan), ratio)


def at_bound(signal_model: SignalModel, values: Tensor) -> Tensor:
    """Tell where a parameter (n_voxels, n_parameters) lies at a physical bound, (n_voxels,)."""
    lower, upper = (signal_model.to_physical(end) for end in signal_model.latent_range(values))
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
