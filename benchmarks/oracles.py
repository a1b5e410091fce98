"""The limits: what an estimator could reach that knew the truth about the population.

Bayes-optimal estimates are posterior means under the distribution that the voxels were drawn
from: no estimator has a smaller mean squared error. The Cramer-Rao bound holds for unbiased
estimators, which know nothing of the population.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.func import jvp

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.moments import hermite_rule
from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.estimators.solver import NormalPenalty, profile, solve
from bids_gmvae.signal_models.base import SignalModel
from bids_gmvae.simulation.tissues import Population

#: Nodes per dimension: to find where the mass is, and to integrate it.
N_COARSE, N_FINE = 3, 5
#: Components with less than this share of a voxel's evidence are left out.
NEGLIGIBLE = 1e-6
VOXELS_AT_ONCE = 2_000


@dataclass(frozen=True, eq=False)
class TruePrior:
    """The normal mixture on the latents from which voxels are drawn.

    Attributes
    ----------
    weights : Tensor of shape (n_components,)
    means : Tensor of shape (n_components, n_latent)
    covariances : Tensor of shape (n_components, n_latent, n_latent)
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def of(cls, population: Population) -> TruePrior:
        """Take over the tissues of a population, without its lesions."""
        n = len(population.tissues)
        weights = torch.tensor([t.weight for t in population.tissues], dtype=torch.float64)
        root = population.latent_spreads()[:n, :, None] * population.mixing()
        return cls(weights / weights.sum(), population.latent_means()[:n], root @ root.mT)

    @property
    def distribution(self) -> MixtureSameFamily:
        """As a distribution over latents."""
        components = MultivariateNormal(self.means, self.covariances)
        return MixtureSameFamily(Categorical(self.weights), components)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Posterior under the true prior.

    Attributes
    ----------
    mean, std : Tensor of shape (n_voxels, n_parameters)
        Physical units.
    effective : Tensor of shape (n_voxels,), optional
        Effective number of draws, of estimates by sampling.
    orientation : Tensor of shape (n_voxels, 3), optional
        Principal axis of the posterior, of directional models.
    """

    mean: Tensor
    std: Tensor
    effective: Tensor | None = None
    orientation: Tensor | None = None


def bayes_optimal(
    run: Measurements, model: SignalModel, prior: TruePrior, *, noise_model: str = "rician"
) -> Estimate:
    """Integrate the posterior of a model without orientation on an adaptive grid.

    The data are shell means, which are all but sufficient. For every tissue, latents and log S0
    (flat) are integrated by Gauss-Hermite quadrature (Naylor and Smith 1982,
    https://doi.org/10.2307/2347995): first around the mode, then, with more nodes, around the
    mean and covariance that the first pass found.

    Parameters
    ----------
    run : Measurements
        Of tissue that is the same in all directions.
    model : SignalModel
        The physics.
    prior : TruePrior
        On the latents of the model.
    noise_model : str
        Of the likelihood.
    """
    settings = ModelSettings(noise_model=noise_model)
    # Without directions nothing is corrected for anisotropy, of which there is none.
    run = replace(run, acquisition=Acquisition(bvals=run.acquisition.bvals))
    parts = []
    for first in range(0, len(run), VOXELS_AT_ONCE):
        part = run.select(slice(first, first + VOXELS_AT_ONCE))
        parts.append(_integrate(Problem.of(part, model, settings), prior))
    means, stds = zip(*parts, strict=True)
    return Estimate(torch.cat(means), torch.cat(stds))


def _integrate(problem: Problem, prior: TruePrior) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation of each parameter, over all components."""
    n_voxels, n_components = len(problem), len(prior.weights)
    voxel = torch.arange(n_voxels).repeat(n_components)
    component = torch.arange(n_components).repeat_interleave(n_voxels)
    centre, covariance = modes(problem, prior)
    coarse = _Grid(problem, prior, voxel, component, centre, covariance, N_COARSE)
    share = coarse.evidence.reshape(n_components, n_voxels).softmax(dim=0).flatten()
    kept = share > NEGLIGIBLE
    centre, covariance = coarse.moments()
    fine = _Grid(
        problem, prior, voxel[kept], component[kept], centre[kept], covariance[kept], N_FINE
    )
    mass = torch.full((n_components, n_voxels), -torch.inf, dtype=centre.dtype)
    mass[component[kept], voxel[kept]] = fine.evidence
    share = mass.softmax(dim=0)[component[kept], voxel[kept]]
    values = problem.signal_model.to_physical(fine.points[..., 1:])
    scale = torch.tensor([parameter.center for parameter in problem.signal_model.parameters])
    values = values / scale  # D ~ 1e-3 would lose digits when squared
    weights = share * fine.weights
    first, second = (
        torch.zeros(n_voxels, values.shape[-1], dtype=values.dtype).index_add(
            0, voxel[kept], torch.einsum("jr,jrp->rp", weights, power)
        )
        for power in (values, values**2)
    )
    return first * scale, (second - first**2).clamp(min=0).sqrt() * scale


class _Grid:
    """Likelihood times prior of (voxel, component) rows on their own grids.

    Coordinates are (log S0, latents); ``points`` has shape (n_nodes, n_rows, n_latent + 1),
    ``weights``, which sum to 1 over nodes, (n_nodes, n_rows).
    """

    def __init__(
        self,
        problem: Problem,
        prior: TruePrior,
        voxel: Tensor,
        component: Tensor,
        centre: Tensor,
        covariance: Tensor,
        n_nodes: int,
    ) -> None:
        nodes, weights = hermite_rule(n_nodes, centre)
        n = centre.shape[1]
        grid = torch.cartesian_prod(*[nodes] * n)
        log_weights = torch.cartesian_prod(*[weights.log()] * n).sum(dim=1)
        root = torch.linalg.cholesky(covariance)
        self.points = centre + torch.einsum("rpq,jq->jrp", root, grid)
        rows = problem.select(voxel)
        log_likelihood = torch.stack(
            [rows.log_likelihood(State(point[:, 0], point[:, 1:])) for point in self.points]
        )
        # Whitened by the component, so that its log density is a sum of squares.
        whiten = torch.linalg.inv(torch.linalg.cholesky(prior.covariances))
        offset = self.points[..., 1:] - prior.means[component]
        white = torch.einsum("rpq,jrq->jrp", whiten[component], offset)
        log_density = -white.square().sum(dim=2) / 2
        log_mass = log_likelihood.nan_to_num(nan=-torch.inf) + log_density
        log_mass = log_mass + (log_weights + grid.square().sum(dim=1) / 2)[:, None]
        log_volumes = _log_det(root) + (prior.weights.log() + _log_det(whiten))[component]
        self.evidence = log_mass.logsumexp(dim=0) + log_volumes
        self.weights = log_mass.softmax(dim=0)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Give mean and covariance of the coordinates, by row."""
        mean = torch.einsum("jr,jrp->rp", self.weights, self.points)
        offset = self.points - mean
        covariance = torch.einsum("jr,jrp,jrq->rpq", self.weights, offset, offset)
        return mean, covariance + 1e-12 * torch.eye(mean.shape[1], dtype=mean.dtype)


def _log_det(triangular: Tensor) -> Tensor:
    return triangular.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


def modes(problem: Problem, prior: TruePrior) -> tuple[Tensor, Tensor]:
    """Find posterior mode and covariance of (log S0, latents) under each component.

    Returns
    -------
    centre : Tensor of shape (n_components * n_voxels, n_latent + 1)
        Component by component.
    covariance : Tensor of shape (n_components * n_voxels, n_latent + 1, n_latent + 1)
    """
    start = problem.start()
    centres, covariances = [], []
    for mean, precision in zip(prior.means, prior.covariances.inverse(), strict=True):
        expanded = mean.expand_as(start.z)
        penalty = NormalPenalty(expanded, precision.expand(len(problem), -1, -1))
        solution = solve(problem, State(start.log_s0, expanded), penalty=penalty, tolerance=1e-4)
        curvature = solution.linearisation.information.clone()
        curvature[:, 1:, 1:] += precision
        centres.append(torch.cat([solution.state.log_s0[:, None], solution.state.z], dim=1))
        covariances.append(curvature.inverse())
    return torch.cat(centres), torch.cat(covariances)


def cramer_rao(
    model: SignalModel,
    acquisition: Acquisition,
    values: Tensor,
    sigma: float,
    *,
    orientation: Tensor | None = None,
) -> Tensor:
    """Give the bound on the sd of each parameter with S0 (here 1) and orientation unknown.

    From the exact Rician information of every volume.

    Parameters
    ----------
    model : SignalModel
        The physics.
    acquisition : Acquisition
        Of all volumes.
    values : Tensor of shape (n_voxels, n_parameters)
        Truth, physical units.
    sigma : float
        Noise sd relative to S0.
    orientation : Tensor of shape (n_voxels, 3), optional
        Truth.

    Returns
    -------
    Tensor of shape (n_voxels, n_parameters)
        Physical units; infinite where the signal does not depend on a parameter.
    """
    z = model.to_real(values)
    nothing = torch.ones(len(values), len(acquisition), dtype=values.dtype)
    run = Measurements(nothing, torch.full_like(nothing[:, 0], sigma), acquisition)
    problem = Problem.of(run, model, ModelSettings())
    counts = torch.ones(len(acquisition), dtype=values.dtype)
    problem = replace(
        problem, data=nothing, counts=counts, acquisition=acquisition, averaged=False
    )
    state = State(torch.zeros_like(z[:, 0]), z, orientation)
    _, precision = profile(problem.linearise(state), problem)
    slopes = jvp(model.to_physical, (z,), (torch.ones_like(z),))[1]
    inverse, singular = torch.linalg.inv_ex(precision)
    bound = inverse.diagonal(dim1=1, dim2=2).sqrt() * slopes
    return torch.where(singular[:, None] == 0, bound, torch.inf)
