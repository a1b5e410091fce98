"""Recognition by optimisation: Levenberg-Marquardt to the mode, curvature from the physics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.estimators.solver import NormalPenalty, Solution, profile, solve
from bids_gmvae.priors import GaussianMixturePrior, MixturePosterior, Potential

#: Gains below this (nats) do not move the posterior visibly.
TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Recognised:
    """What recognition says about some voxels.

    Attributes
    ----------
    potential : Potential
        The likelihood around the mode.
    state : State
        The mode, with its S0 and orientation.
    converged : Tensor of bool of shape (n_voxels,)
    """

    potential: Potential
    state: State
    converged: Tensor


class Newton:
    """Recognition without a network; nothing to train, nothing to store."""

    name = "newton"

    def first(self, problem: Problem) -> Recognised:
        """Find the mode under the broad population."""
        start = problem.start()
        penalty = NormalPenalty.standard(start.z)
        return recognise(problem, solve(problem, start, penalty=penalty, tolerance=TOLERANCE))

    def refine(
        self, problem: Problem, recognised: Recognised, posterior: MixturePosterior,
        prior: GaussianMixturePrior,
    ) -> Recognised:  # fmt: skip
        """Move each voxel to the mode under the component that explains it best."""
        return refine(problem, recognised, posterior, prior, n_steps=20)


def refine(
    problem: Problem,
    recognised: Recognised,
    posterior: MixturePosterior,
    prior: GaussianMixturePrior,
    *,
    n_steps: int,
) -> Recognised:
    """Linearise again at the mode under each voxel's most probable component."""
    best = posterior.responsibilities.argmax(dim=1)
    penalty = NormalPenalty(prior.means[best], prior.precisions[best])
    # The component's own posterior mean is a better start than the old mode.
    z = posterior.means[torch.arange(len(best), device=best.device), best]
    start = State(recognised.state.log_s0, z, recognised.state.orientation)
    solution = solve(problem, start, penalty=penalty, tolerance=TOLERANCE, n_steps=n_steps)
    return recognise(problem, solution)


def recognise(problem: Problem, solution: Solution) -> Recognised:
    """Turn the linearisation at a mode into a potential."""
    gradient, precision = profile(solution.linearisation, problem)
    z = solution.state.z
    curved = torch.einsum("vpq,vq->vp", precision, z)
    shift = curved + gradient
    constant = (
        solution.linearisation.log_likelihood - (gradient * z).sum(dim=1) - (z * curved).sum(dim=1) / 2
    )
    # log-likelihood(y) = constant + shift . y - y . precision . y / 2 around z
    return Recognised(Potential(precision, shift, constant), solution.state, solution.converged)
