"""What every recognition gives, and the refinement they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from bids_gmvae.estimators.problem import Linearisation, Problem, State
from bids_gmvae.estimators.solver import NormalPenalty, Solution, blocked, profile, solve
from bids_gmvae.priors import GaussianMixturePrior, MixturePosterior, Potential, invert

#: Gains below this (nats) do not move the posterior visibly.
TOLERANCE = 0.02
#: Most steps to the mode under one component, which quadrature then corrects.
N_MODE_STEPS = 20
#: A search for a second mode may end as soon as it is clear to which mode it leads (nats, steps).
SCREENING, N_SCREENING = 0.5, 8
#: Modes further apart than this, in spreads of the broad population, are two.
APART = 0.3
#: A potential's mode lies at most so many spreads from where the likelihood was linearised.
REACH = 3.0


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
    tilt : Tensor of shape (n_voxels,), optional
        Standard deviation of the orientation where it is least certain, radians.
    """

    potential: Potential
    state: State
    converged: Tensor
    tilt: Tensor | None = None

    def select(self, voxels: Tensor) -> Recognised:
        """Keep some voxels."""
        tilt = None if self.tilt is None else self.tilt[voxels]
        return Recognised(
            self.potential.select(voxels), self.state[voxels], self.converged[voxels], tilt
        )


class Recognition(ABC):
    """A way to get from a voxel's data to a Gaussian potential on its latents."""

    name: ClassVar[str]
    #: Most steps of a refinement under the learnt prior.
    n_refine_steps: ClassVar[int]

    @abstractmethod
    def train(self, problems: Sequence[Problem], generator: torch.Generator) -> None:
        """Learn whatever there is to learn, once, before the prior."""

    @abstractmethod
    def first(self, problem: Problem) -> Recognised:
        """Find the mode under the broad population."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Give everything learnt as named tensors."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""

    def refine(
        self,
        problem: Problem,
        recognised: Recognised,
        posterior: MixturePosterior,
        prior: GaussianMixturePrior,
    ) -> Recognised:
        """Move each voxel to the mode under the component that explains it best."""
        best = posterior.responsibilities.argmax(dim=1)
        penalty = NormalPenalty(prior.means[best], prior.precisions[best])
        # The component's own posterior mean is a better start than the old mode.
        rows = torch.arange(len(best), device=best.device)
        start = State(
            recognised.state.log_s0, posterior.means[rows, best], recognised.state.orientation
        )
        solution = solve(
            problem, start, penalty=penalty, tolerance=TOLERANCE, n_steps=self.n_refine_steps
        )
        return recognise(problem, solution)

    def with_rival(
        self, problem: Problem, recognised: Recognised, prior: GaussianMixturePrior
    ) -> tuple[Potential, Recognised]:
        """Look for a second mode, and let every component take the one that suits it.

        Parameters
        ----------
        problem : Problem
            The data.
        recognised : Recognised
            What `refine` gave.
        prior : GaussianMixturePrior
            Its components.

        Returns
        -------
        potential : Potential
            With an axis of components, if any voxel has two modes.
        recognised : Recognised
            The mode of the most probable component.
        """
        rival = problem.signal_model.rival
        here = recognised.state
        if rival is None:
            return recognised.potential, recognised
        values = torch.tensor(rival, dtype=torch.float64)
        start = problem.signal_model.to_real(values).to(here.z).expand_as(here.z)
        penalty = NormalPenalty.standard(here.z)
        found = solve(
            problem, State(here.log_s0, start, here.orientation), penalty=penalty,
            tolerance=SCREENING, n_steps=N_SCREENING,
        )  # fmt: skip
        apart = (found.state.z - here.z).abs().amax(dim=1) > APART
        voxels = torch.nonzero(apart & recognised.converged)[:, 0]
        if len(voxels) == 0:
            return recognised.potential, recognised
        part = problem.select(voxels)
        own = recognised.potential.select(voxels)
        # Only the rows of these voxels are looked at again.
        other = recognise(problem, found).select(voxels)
        other = self.refine(part, other, prior.posterior(other.potential), prior)
        joint, rival_joint = (
            torch.log(item.responsibilities) + item.log_evidence[:, None]
            for item in (prior.posterior(own), prior.posterior(other.potential))
        )
        n_components = joint.shape[1]
        better = rival_joint > joint
        chosen = other.potential.by_component(n_components).where(
            better, own.by_component(n_components)
        )
        wins = rival_joint.amax(dim=1) > joint.amax(dim=1)
        state = here.put(voxels, other.state.where(wins, here[voxels]))
        tilt = recognised.tilt
        if tilt is not None and other.tilt is not None:
            tilt = tilt.index_copy(0, voxels, torch.where(wins, other.tilt, tilt[voxels]))
        return (
            recognised.potential.by_component(n_components).put(voxels, chosen),
            replace(recognised, state=state, tilt=tilt),
        )

    def under_each(
        self, problem: Problem, recognised: Recognised, prior: GaussianMixturePrior
    ) -> Potential:
        """Give each voxel a potential around its mode under each component.

        Parameters
        ----------
        problem : Problem
            The data.
        recognised : Recognised
            What `first` gave.
        prior : GaussianMixturePrior
            Its components.

        Returns
        -------
        Potential
            With an axis of components.
        """
        shape = (len(problem), len(prior.weights))
        device = problem.data.device
        voxel = torch.arange(shape[0], device=device).repeat_interleave(shape[1])
        component = torch.arange(shape[1], device=device).repeat(shape[0])
        part = problem.select(voxel)
        penalty = NormalPenalty(prior.means[component], prior.precisions[component])
        # Whatever the likelihood looks like around its own mode: the component's centre is inside.
        orientation = recognised.state.orientation
        start = State(
            recognised.state.log_s0[voxel], prior.means[component],
            None if orientation is None else orientation[voxel],
        )  # fmt: skip
        solution = solve(part, start, penalty=penalty, tolerance=TOLERANCE, n_steps=N_MODE_STEPS)
        potential = recognise(part, solution).potential
        return Potential(
            potential.precision.unflatten(0, shape),
            potential.shift.unflatten(0, shape),
            potential.constant.unflatten(0, shape),
        )


def recognise(problem: Problem, solution: Solution) -> Recognised:
    """Turn the linearisation at a mode into a potential."""
    gradient, precision = profile(solution.linearisation, problem)
    z = solution.state.z
    # A push against a wall is no evidence for what lies beyond it.
    gradient = torch.where(blocked(problem, z, gradient), torch.zeros_like(gradient), gradient)
    gradient = _within_reach(gradient, precision)
    curved = torch.einsum("vpq,vq->vp", precision, z)
    # Around z the log-likelihood of y is constant + shift . y - y . precision . y / 2.
    constant = solution.linearisation.log_likelihood - ((gradient + curved / 2) * z).sum(dim=1)
    # S0 is integrated out (flat prior, Laplace), so that evidences are those of the latents.
    about_log_s0 = solution.linearisation.information[:, 0, 0].clamp(min=1e-12)
    constant = constant - torch.log(about_log_s0) / 2 + solution.state.log_s0
    potential = Potential(precision, curved + gradient, constant)
    return Recognised(
        potential, solution.state, solution.converged, _tilt(solution.linearisation, problem)
    )


def _tilt(linear: Linearisation, problem: Problem) -> Tensor | None:
    """Give the largest standard deviation of the orientation, radians, if there is one."""
    if not problem.signal_model.directional:
        return None
    _, first, second = problem.nuisance
    a, b, c = (
        linear.information[:, i, j] for i, j in ((first, first), (first, second), (second, second))
    )
    least = (a + c) / 2 - torch.hypot((a - c) / 2, b)
    return least.clamp(min=torch.finfo(least.dtype).tiny).rsqrt()


def _within_reach(gradient: Tensor, precision: Tensor) -> Tensor:
    """Limit slopes to those whose curvature puts the mode within `REACH`.

    A slope with hardly any curvature, as beside a wall, would put the mode of the quadratic form
    thousands of spreads away, and earn evidence there that no real parameter has.
    """
    inverse, log_determinant = invert(precision)
    step = torch.einsum("vpq,vq->vp", inverse, gradient)
    # Most voxels need no eigenvectors. The inverse of a matrix that is not positive is no number.
    near = (step.norm(dim=1) < REACH) & torch.isfinite(log_determinant)
    far = torch.nonzero(~near)[:, 0]
    values, vectors = torch.linalg.eigh(precision[far])
    slopes = torch.einsum("vpi,vp->vi", vectors, gradient[far])
    limit = REACH * values.clamp(min=0)
    limited = torch.einsum("vpi,vi->vp", vectors, slopes.clamp(-limit, limit))
    return gradient.index_copy(0, far, limited)
