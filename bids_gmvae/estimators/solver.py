"""One batched Levenberg-Marquardt for all signal models, with or without a prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bids_gmvae.estimators.problem import Linearisation, Problem, State

#: Longest steps in log S0 and latents, and in tilt (radians).
MAX_STEP, MAX_TILT = 1.5, 0.5
#: A step this short changes nothing.
MIN_STEP = 1e-6
DAMPING_START, DAMPING_DOWN, DAMPING_UP = 1e-3, 0.1, 10.0
DAMPING_MIN, DAMPING_MAX = 1e-4, 1e9
GOOD_RATIO, POOR_RATIO = 0.75, 0.25
#: A voxel that runs out of steps still counts as converged if the next one would gain less than
#: this (nats): it creeps along a direction that the data do not determine.
CREEP = 0.05


@dataclass(frozen=True, eq=False)
class NormalPenalty:
    """A normal prior on the latents of each voxel.

    Attributes
    ----------
    mean : Tensor of shape (n_voxels, n_parameters)
    precision : Tensor of shape (n_voxels, n_parameters, n_parameters)
    """

    mean: Tensor
    precision: Tensor

    @classmethod
    def standard(cls, like: Tensor) -> NormalPenalty:
        """Give the broad population, a standard normal, for latents like ``like``."""
        identity = torch.eye(like.shape[1]).to(like)
        return cls(torch.zeros_like(like), identity.expand(len(like), -1, -1))

    def select(self, voxels: Tensor) -> NormalPenalty:
        """Keep some voxels."""
        return NormalPenalty(self.mean[voxels], self.precision[voxels])

    def log_prob(self, z: Tensor) -> Tensor:
        """Evaluate up to a constant, (n_voxels,)."""
        offset = z - self.mean
        return -torch.einsum("vp,vpq,vq->v", offset, self.precision, offset) / 2


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the solver stopped.

    Attributes
    ----------
    state : State
        The mode.
    linearisation : Linearisation
        Of the log-likelihood alone, at the mode.
    converged : Tensor of bool of shape (n_voxels,)
        Whether a further step would have gained less than the tolerance.
    """

    state: State
    linearisation: Linearisation
    converged: Tensor


def solve(
    problem: Problem,
    start: State,
    *,
    penalty: NormalPenalty | None = None,
    tolerance: float = 1e-3,
    n_steps: int = 30,
) -> Solution:
    """Maximise the posterior density of every voxel.

    Parameters
    ----------
    problem : Problem
        The data.
    start : State
        Where to begin.
    penalty : NormalPenalty, optional
        Prior on the latents; without it the likelihood alone is maximised.
    tolerance : float
        Voxels whose next step would gain less than this are done, nats.
    n_steps : int
        Most steps of a voxel.

    Returns
    -------
    Solution
        Rows in the order of ``problem``.
    """
    if problem.is_compiled:
        return _solve_compiled(problem, start, penalty, tolerance, n_steps)
    device = problem.data.device
    state = start
    active = torch.arange(len(problem), device=device)
    damping = torch.full((len(problem),), DAMPING_START).to(problem.data)
    converged = torch.zeros(len(problem), dtype=torch.bool, device=device)

    for _ in range(n_steps):
        if len(active) == 0:
            break
        part, here = problem.select(active), state[active]
        prior = penalty.select(active) if penalty is not None else None
        step, gain = _propose(part, part.linearise(here), here, prior, damping[active])
        there = part.move(here, step)
        difference = _objective(part, there, prior) - _objective(part, here, prior)
        better = difference >= 0
        state = state.put(active, there.where(better, here))
        # Trust follows the quadratic model's honesty: a gain far below the promised one means
        # that the step jumped across the valley, even if it went down.
        ratio = difference / gain.clamp(min=1e-12)
        factor = torch.ones_like(ratio)
        factor[ratio > GOOD_RATIO] = DAMPING_DOWN
        factor[ratio < POOR_RATIO] = DAMPING_UP
        damping[active] = (damping[active] * factor).clamp(min=DAMPING_MIN)
        # A refused step says nothing unless the damping has already made it tiny.
        stuck = (step.abs().amax(dim=1) < MIN_STEP) | (damping[active] > DAMPING_MAX)
        done = (better & (gain < tolerance)) | stuck
        converged[active] = done | (gain < CREEP)
        active = active[~done]

    return Solution(state, problem.linearise(state), converged)


def _solve_compiled(
    problem: Problem, start: State, penalty: NormalPenalty | None, tolerance: float, n_steps: int
) -> Solution:
    from bids_gmvae.estimators.compiled import maximise_voxels  # compiles

    if penalty is None:
        broad = NormalPenalty.standard(start.z)
        penalty = NormalPenalty(broad.mean, torch.zeros_like(broad.precision))
    state, linearisation, converged = maximise_voxels(
        problem, start, penalty.mean, penalty.precision, tolerance=tolerance, n_steps=n_steps
    )
    return Solution(state, Linearisation(*linearisation), converged)


def gauss_newton_step(problem: Problem, state: State, penalty: NormalPenalty) -> State:
    """Take one step towards the posterior mode; differentiable, for use as a layer."""
    damping = torch.full_like(problem.sigma, DAMPING_START)
    step, _ = _propose(problem, problem.linearise(state), state, penalty, damping)
    return problem.move(state, step)


def _propose(
    problem: Problem,
    linear: Linearisation,
    state: State,
    penalty: NormalPenalty | None,
    damping: Tensor,
) -> tuple[Tensor, Tensor]:
    """Give the damped step, and the gain (nats) that the quadratic model promises."""
    gradient, curvature = linear.gradient.clone(), linear.information.clone()
    if penalty is not None:
        block = slice(1, 1 + problem.n_parameters)
        pull = torch.einsum("vpq,vq->vp", penalty.precision, state.z - penalty.mean)
        gradient[:, block] -= pull
        curvature[:, block, block] += penalty.precision
    lower, upper = problem.signal_model.latent_range(gradient)
    block = slice(1, 1 + problem.n_parameters)
    free = torch.ones_like(gradient)
    free[:, block] = (~blocked(problem, state.z, gradient[:, block])).to(gradient)
    gradient = gradient * free
    curvature = curvature * free[:, :, None] * free[:, None, :] + torch.diag_embed(1 - free)
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    # Directions without any information (f = 0 leaves the tilt free) must not make it singular.
    floor = 1e-10 * diagonal.amax(dim=1, keepdim=True).clamp(min=1e-12)
    damped = curvature + torch.diag_embed(damping[:, None] * diagonal + floor)
    step = torch.linalg.solve_ex(damped, gradient)[0]
    step = torch.where(torch.isfinite(step), step, torch.zeros_like(step))
    longest = torch.full((step.shape[1],), MAX_STEP).to(step)
    longest[1 + problem.n_parameters :] = MAX_TILT
    excess = (step.abs() / longest).amax(dim=1, keepdim=True).clamp(min=1.0)
    step = step / excess
    inside = (state.z + step[:, block]).clamp(lower, upper) - state.z
    step = torch.cat([step[:, :1], inside, step[:, 1 + problem.n_parameters :]], dim=1)
    quadratic = torch.einsum("vp,vpq,vq->v", step, curvature, step)
    gain = (step * gradient).sum(dim=1) - quadratic / 2
    return step, gain


def blocked(problem: Problem, z: Tensor, gradient: Tensor) -> Tensor:
    """Tell which latents lie at an end of their range and are pushed further out.

    Parameters
    ----------
    problem : Problem
        Gives the signal model.
    z, gradient : Tensor of shape (n_voxels, n_parameters)
        Latents, and the derivative of what is maximised.

    Returns
    -------
    Tensor of bool of shape (n_voxels, n_parameters)
    """
    lower, upper = problem.signal_model.latent_range(z)
    below = (z <= lower + MIN_STEP) & (gradient < 0)
    return below | ((z >= upper - MIN_STEP) & (gradient > 0))


def _objective(problem: Problem, state: State, penalty: NormalPenalty | None) -> Tensor:
    value = problem.log_likelihood(state)
    if penalty is not None:
        value = value + penalty.log_prob(state.z)
    # A voxel whose prediction overflows must lose every comparison.
    return torch.where(torch.isfinite(value), value, torch.full_like(value, -1e300))


def profile(linear: Linearisation, problem: Problem) -> tuple[Tensor, Tensor]:
    """Profile out S0 and orientation.

    Returns
    -------
    gradient : Tensor of shape (n_voxels, n_parameters)
        Of the profile log-likelihood with respect to the latents.
    precision : Tensor of shape (n_voxels, n_parameters, n_parameters)
        Information about the latents that is left: the Schur complement.
    """
    latent = torch.tensor(problem.latents, device=linear.gradient.device)
    # Sweeping a nuisance out of the bordered matrix profiles it out.
    swept = torch.cat([linear.information, linear.gradient[:, :, None]], dim=2)
    diagonal = linear.information.diagonal(dim1=1, dim2=2)[:, problem.nuisance]
    ridge = 1e-10 * diagonal.amax(dim=1).clamp(min=1e-12)
    for index in problem.nuisance:
        row, column = swept[:, index], swept[:, :, index]
        share = column[:, : len(problem.latents) + len(problem.nuisance)]
        share = share / (row[:, index] + ridge)[:, None]
        swept = swept - share[:, :, None] * row[:, None, :]
    precision = swept[:, latent][:, :, latent]
    return swept[:, latent, -1], (precision + precision.transpose(1, 2)) / 2
