"""Potentials that match the moments of the true posterior, where it is not normal.

A Gaussian around the mode misjudges likelihoods that are skewed or end in a wall: kurtosis at low
SNR, free water under the noise floor. Here the likelihood times each component that matters is
integrated on an adaptive Gauss-Hermite grid, S0 integrated out at every node, and the voxel gets
a potential for each component: the one that gives the same mean, covariance and evidence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bids_gmvae.estimators.moments import hermite_rule
from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.priors import GaussianMixturePrior, MixturePosterior, Potential, invert

#: Nodes per latent; the grid sits on the component's current posterior.
N_NODES = 3
N_S0_STEPS = 2
MAX_S0_STEP = 0.3
#: Components less probable than this keep the potential they have.
NEGLIGIBLE = 1e-3
#: A potential keeps at least this precision, so that it stays proper with any prior.
MIN_PRECISION = 1e-4


def match_moments(
    problem: Problem,
    state: State,
    potential: Potential,
    mixture: MixturePosterior,
    prior: GaussianMixturePrior,
) -> Potential:
    """Give each voxel a potential for each component that matters.

    Parameters
    ----------
    problem : Problem
        Shell means; the cost is that of some hundred predictions.
    state : State
        Modes, for S0.
    potential : Potential
        Current potentials, with or without an axis of components.
    mixture : MixturePosterior
        What they give under ``prior``.
    prior : GaussianMixturePrior
        Its components.

    Returns
    -------
    Potential
        With an axis of components.
    """
    n_components = mixture.responsibilities.shape[1]
    current = potential.by_component(n_components)
    voxel, component = torch.nonzero(mixture.responsibilities > NEGLIGIBLE, as_tuple=True)
    centre, precision = prior.means[component], prior.precisions[component]
    mean, covariance = mixture.means[voxel, component], mixture.covariances[voxel, component]
    evidence, mean, covariance = _integrate(
        problem.select(voxel), state.log_s0[voxel], mean, covariance, centre, precision
    )

    n_latent = mean.shape[1]
    values, vectors = torch.linalg.eigh(invert(covariance)[0] - precision)
    values = values.clamp(min=MIN_PRECISION)
    own = (vectors * values[:, None]) @ vectors.transpose(1, 2)
    total = own + precision
    shift = torch.einsum("vpq,vq->vp", total, mean)
    own_shift = shift - torch.einsum("vpq,vq->vp", precision, centre)
    # The evidence that these potentials would give, up to the constant that makes it right.
    given = (
        invert(precision)[1]
        - invert(total)[1]
        + (shift * mean).sum(dim=1)
        - torch.einsum("vp,vpq,vq->v", centre, precision, centre)
    ) / 2
    constant = evidence - given

    good = torch.isfinite(constant) & torch.isfinite(own.reshape(-1, n_latent**2)).all(dim=1)
    place = (voxel[good], component[good])
    return Potential(
        current.precision.index_put(place, own[good]),
        current.shift.index_put(place, own_shift[good]),
        current.constant.index_put(place, constant[good]),
    )


def _integrate(
    problem: Problem,
    log_s0: Tensor,
    mean: Tensor,
    covariance: Tensor,
    centre: Tensor,
    precision: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give log-evidence, mean and covariance of likelihood times component, by row."""
    nodes, weights = hermite_rule(N_NODES, mean)
    n_latent = mean.shape[1]
    grid = torch.cartesian_prod(*[nodes] * n_latent).reshape(-1, n_latent)
    log_weights = torch.log(torch.cartesian_prod(*[weights] * n_latent).reshape(-1, n_latent)).sum(
        dim=1
    )
    root = torch.linalg.cholesky_ex(covariance)[0]
    log_det_covariance = invert(covariance)[1]
    log_det_precision = invert(precision)[1]
    points = mean[:, None] + grid @ root.transpose(1, 2)
    mass = []
    for node, log_weight in enumerate(log_weights):
        offset = points[:, node] - centre
        log_prior = log_det_precision - torch.einsum("vp,vpq,vq->v", offset, precision, offset)
        # The proposal's density at its own node is known by construction.
        log_proposal = -log_det_covariance - grid[node].square().sum()
        log_likelihood = _marginal(problem, log_s0, points[:, node])
        mass.append(log_likelihood + (log_prior - log_proposal) / 2 + log_weight)
    log_mass = torch.stack(mass, dim=1)
    evidence = torch.logsumexp(log_mass, dim=1)
    share = torch.exp(log_mass - evidence[:, None])
    mean = torch.einsum("vj,vjp->vp", share, points)
    offsets = points - mean[:, None]
    covariance = torch.einsum("vj,vjp,vjq->vpq", share, offsets, offsets)
    # All mass on one node would leave no spread at all.
    return evidence, mean, covariance + 1e-10 * torch.eye(n_latent).to(mean)


def _marginal(problem: Problem, log_s0: Tensor, z: Tensor) -> Tensor:
    """Integrate S0 out at fixed latents (flat prior, Laplace), (n_voxels,)."""
    for _ in range(N_S0_STEPS):
        signal = problem.predict(State(log_s0, z))
        _, score, information = problem.evaluate(signal)
        curvature = (information * signal**2).sum(dim=1).clamp(min=1e-6)
        step = (score * signal).sum(dim=1) / curvature
        log_s0 = log_s0 + step.clamp(-MAX_S0_STEP, MAX_S0_STEP)
    signal = problem.predict(State(log_s0, z))
    log_likelihood, _, information = problem.evaluate(signal)
    about_log_s0 = (information * signal**2).sum(dim=1).clamp(min=1e-12)
    return log_likelihood - torch.log(about_log_s0) / 2 + log_s0
