"""Exact posteriors of shell averages: likelihood times component, integrated numerically.

A Gaussian around the mode misjudges likelihoods that are skewed or end in a wall: kurtosis at low
SNR, free water under the noise floor. And the mode under one component says little about another:
a potential taken in white matter is wrong in free water. So every voxel gets a potential for
each component: first around the mode under that component, then the one that gives the moments
and the evidence of an adaptive Gauss-Hermite rule, with S0 integrated out at every node.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bids_gmvae.estimators.moments import hermite_rule
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.priors import GaussianMixturePrior, MixturePosterior, Potential, invert

#: Nodes per latent, for up to two latents and for more. The grid sits on a component's posterior.
N_NODES, N_NODES_MANY = 4, 3
#: Predictions held at once.
BLOCK_NUMBERS = 1_000_000
#: Newton steps in log S0 at a node: at most so many, so long, until one gains less (nats).
N_S0_STEPS, MAX_S0_STEP, S0_TOLERANCE = 6, 0.5, 0.01
#: Components less probable than this keep the potential they have. A potential that was never
#: matched may be wrong about its evidence, so that far less probable ones matter at first.
NEGLIGIBLE, NEGLIGIBLE_AT_FIRST = 1e-3, 1e-9
#: A potential keeps at least this precision, so that it stays proper with any prior.
MIN_PRECISION = 1e-4


def match_moments(
    problem: Problem,
    log_s0: Tensor,
    potential: Potential,
    mixture: MixturePosterior,
    prior: GaussianMixturePrior,
    *,
    negligible: float = NEGLIGIBLE,
) -> Potential:
    """Improve the potentials of the components that matter.

    Parameters
    ----------
    problem : Problem
        Shell means; the cost is that of some hundred predictions.
    log_s0 : Tensor of shape (n_voxels,)
        Where to start.
    potential : Potential
        Current potentials, with an axis of components.
    mixture : MixturePosterior
        What they give under ``prior``.
    prior : GaussianMixturePrior
        Its components.
    negligible : float
        Probability below which a component does not matter.

    Returns
    -------
    Potential
        With an axis of components.
    """
    voxel, component = torch.nonzero(mixture.responsibilities > negligible, as_tuple=True)
    centre, precision = prior.means[component], prior.precisions[component]
    evidence, mean, covariance = _integrate(
        problem, voxel, log_s0, mixture.means[voxel, component],
        mixture.covariances[voxel, component], centre, precision,
    )  # fmt: skip

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
        potential.precision.index_put(place, own[good]),
        potential.shift.index_put(place, own_shift[good]),
        potential.constant.index_put(place, constant[good]),
    )


def _integrate(
    problem: Problem,
    voxel: Tensor,
    log_s0: Tensor,
    mean: Tensor,
    covariance: Tensor,
    centre: Tensor,
    precision: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give log-evidence, mean and covariance of likelihood times component, by row."""
    n_latent = mean.shape[1]
    nodes, weights = hermite_rule(N_NODES if n_latent <= 2 else N_NODES_MANY, mean)
    grid = torch.cartesian_prod(*[nodes] * n_latent).reshape(-1, n_latent)
    log_weights = torch.log(torch.cartesian_prod(*[weights] * n_latent).reshape(-1, n_latent)).sum(
        dim=1
    )
    root = torch.linalg.cholesky_ex(covariance)[0]
    points = mean[:, None] + grid @ root.transpose(1, 2)
    offset = points - centre[:, None]
    log_prior = invert(precision)[1][:, None] - ((offset @ precision) * offset).sum(dim=2)
    # The proposal's density at its own node is known by construction.
    log_proposal = -invert(covariance)[1][:, None] - grid.square().sum(dim=1)
    log_mass = marginal_likelihood(problem, voxel, log_s0, points)
    log_mass = log_mass + (log_prior - log_proposal) / 2 + log_weights
    evidence = torch.logsumexp(log_mass, dim=1)
    share = torch.exp(log_mass - evidence[:, None])
    mean = torch.einsum("vj,vjp->vp", share, points)
    offset = points - mean[:, None]
    covariance = (share[..., None] * offset).transpose(1, 2) @ offset
    # All mass on one node would leave no spread at all.
    return evidence, mean, covariance + 1e-10 * torch.eye(n_latent).to(mean)


def marginal_likelihood(problem: Problem, voxel: Tensor, log_s0: Tensor, points: Tensor) -> Tensor:
    """Integrate S0 out of the likelihood at fixed latents (flat prior, Laplace).

    Parameters
    ----------
    problem : Problem
        Shell means.
    voxel : Tensor of int of shape (n_rows,)
        Which voxel a row is about.
    log_s0 : Tensor of shape (n_voxels,)
        Where to start.
    points : Tensor of shape (n_rows, n_nodes, n_latent)
        The latents.

    Returns
    -------
    Tensor of shape (n_rows, n_nodes)
        Log-likelihood, nats.
    """
    model = problem.signal_model
    compiled = points.device.type == "cpu" and points.dtype == torch.float64
    integrate = integrate_s0_compiled if compiled else integrate_s0
    size = max(1, BLOCK_NUMBERS // (points.shape[1] * len(problem.acquisition)))
    parts = [
        integrate(problem, rows, log_s0, model(model.to_physical(block), problem.acquisition))
        for rows, block in zip(voxel.split(size), points.split(size), strict=True)
    ]
    return torch.cat(parts) if parts else points.new_zeros(points.shape[:2])


def integrate_s0(problem: Problem, voxel: Tensor, log_s0: Tensor, relative: Tensor) -> Tensor:
    """Integrate S0 out for signals relative to it, (n_rows, n_nodes, n_data), on any device."""
    n_nodes = relative.shape[1]
    rows = voxel.repeat_interleave(n_nodes)
    part, level = problem.select(rows), log_s0[rows]
    relative = relative.flatten(0, 1)
    for _ in range(N_S0_STEPS):
        signal = torch.exp(level)[:, None] * relative
        log_likelihood, score, information = part.evaluate(signal)
        curvature = (information * signal**2).sum(dim=1).clamp(min=1e-12)
        slope = (score * signal).sum(dim=1)
        step = (slope / curvature).clamp(-MAX_S0_STEP, MAX_S0_STEP)
        level = level + step
    # What the last step gained is known to second order.
    gained = step * (slope - step * curvature / 2)
    marginal = log_likelihood + gained - torch.log(curvature) / 2 + level
    return marginal.reshape(-1, n_nodes)


def integrate_s0_compiled(
    problem: Problem, voxel: Tensor, log_s0: Tensor, relative: Tensor
) -> Tensor:
    """Do the same, faster, on the CPU in double precision."""
    from bids_gmvae.estimators.compiled.marginal import marginal, rician_cubics

    rician = problem.noise_model == "rician"
    out = relative.new_empty(relative.shape[:2])
    marginal(
        relative.contiguous().numpy(), voxel.numpy(), problem.data.contiguous().numpy(),
        problem.counts.numpy(), problem.sigma.contiguous().numpy(),
        rician_cubics()[: None if rician else 0].numpy(), log_s0.contiguous().numpy(),
        N_S0_STEPS, MAX_S0_STEP, S0_TOLERANCE, out.numpy(),
    )  # fmt: skip
    return out
