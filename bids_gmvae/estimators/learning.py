"""Learning the mixture prior from the voxels of one or several runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.quadrature import NEGLIGIBLE, NEGLIGIBLE_AT_FIRST, match_moments
from bids_gmvae.estimators.recognition import Recognised, Recognition
from bids_gmvae.priors import GaussianMixturePrior, Potential, learn, spread_centres
from bids_gmvae.signal_models.base import SignalModel

N_RESTARTS = 2
#: Directional models: times the potentials are linearised again under the learnt prior.
N_RELINEARISE = 2
#: Shell averages: rounds of exact posteriors, most steps with each, and when to stop, nats per
#: voxel. Few steps, because a potential holds near the component under which it was matched.
N_ROUNDS, MAX_STEPS, TOLERANCE = 20, 16, 1e-4
#: Components begin no wider than this. What spreads along a ridge of the likelihood is noise, not
#: tissue, and a quadrature along a curved ridge is poor; true width is learnt in a few steps.
MAX_START_SPREAD = 0.15
#: Quadrature of wide components is uncertain by some hundredths of a nat per voxel; a loss beyond
#: this means that the steps led further than the potentials hold.
SLACK = 0.05

#: Told about the round, of how many, and the evidence per voxel.
Progress = Callable[[int, int, float], None]


def learn_prior(
    problems: Sequence[Problem],
    recognition: Recognition,
    *,
    n_components: int,
    anchor: Tensor | None = None,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[GaussianMixturePrior, list[float]]:
    """Learn a mixture by expectation-maximisation.

    Parameters
    ----------
    problems : sequence of Problem
        The voxels, one item per run.
    recognition : Recognition
        Trained.
    n_components : int
        Tissue components, with the anchor; the broad one comes on top.
    anchor : Tensor of shape (n_latent,), optional
        Where one component stays.
    generator : torch.Generator
        For the start.
    progress : callable
        Told about each round.

    Returns
    -------
    prior : GaussianMixturePrior
    history : list of float
        Evidence per voxel, nats.
    """
    recognised = [recognition.first(problem) for problem in problems]
    prior = initialise(
        join([item.potential for item in recognised]),
        problems[0].signal_model,
        n_components=n_components,
        anchor=anchor,
        generator=generator,
    )
    deepen = _by_quadrature if problems[0].averaged else _by_linearising
    return deepen(prior, problems, recognised, recognition, progress)


def initialise(
    potential: Potential,
    signal_model: SignalModel,
    *,
    n_components: int,
    anchor: Tensor | None,
    generator: torch.Generator,
) -> GaussianMixturePrior:
    """Start the components apart from each other; keep the best of some restarts."""
    n_latent = potential.shift.shape[1]
    lower, upper = _tissue_range(signal_model, potential.shift)
    n_learnt = min(n_components - (anchor is not None), len(potential))
    single = GaussianMixturePrior.around(
        potential.shift.new_zeros(1, n_latent), spread=1.0, lower=lower, upper=upper
    )
    pull = torch.tensor([parameter.pull for parameter in signal_model.parameters]).to(lower)
    points = single.posterior(potential).means[:, -1].clamp(lower, upper)
    best, best_evidence = single, -torch.inf
    for _ in range(N_RESTARTS):
        centres = spread_centres(points, n_learnt, generator)
        prior = GaussianMixturePrior.around(
            centres, spread=0.3, lower=lower, upper=upper, anchor=anchor, pull=pull
        )
        prior, history = learn(prior, potential, n_steps=15)
        if history[-1] > best_evidence:
            best, best_evidence = prior, history[-1]
    return best


def _by_linearising(
    prior: GaussianMixturePrior,
    problems: Sequence[Problem],
    recognised: Sequence[Recognised],
    recognition: Recognition,
    progress: Progress,
) -> tuple[GaussianMixturePrior, list[float]]:
    """Linearise again at the modes under the prior learnt so far."""
    history: list[float] = []
    for round_ in range(N_RELINEARISE + 1):
        prior, evidence = learn(prior, join([item.potential for item in recognised]))
        history += evidence
        progress(round_ + 1, N_RELINEARISE + 1, history[-1])
        if round_ < N_RELINEARISE:
            recognised = [
                recognition.refine(problem, item, prior.posterior(item.potential), prior)
                for problem, item in zip(problems, recognised, strict=True)
            ]
    return prior, history


def _by_quadrature(
    prior: GaussianMixturePrior,
    problems: Sequence[Problem],
    recognised: Sequence[Recognised],
    recognition: Recognition,
    progress: Progress,
) -> tuple[GaussianMixturePrior, list[float]]:
    """Integrate likelihood times component anew whenever the components have moved."""
    prior = prior.narrowed(MAX_START_SPREAD)
    levels = [item.state.log_s0 for item in recognised]
    potentials = [
        recognition.under_each(problem, item, prior)
        for problem, item in zip(problems, recognised, strict=True)
    ]
    accepted, history, n_steps = (prior, potentials), [-math.inf], 1
    best = prior
    for round_ in range(N_ROUNDS):
        negligible = NEGLIGIBLE if round_ else NEGLIGIBLE_AT_FIRST
        potentials = [
            match_moments(
                problem, level, potential, prior.posterior(potential), prior, negligible=negligible
            )
            for problem, level, potential in zip(problems, levels, potentials, strict=True)
        ]
        evidence = float(prior.posterior(join(potentials)).log_evidence.mean())
        progress(round_ + 1, N_ROUNDS, evidence)
        gain = evidence - history[-1]
        if gain > -SLACK:
            accepted, n_steps = (prior, potentials), min(2 * n_steps, MAX_STEPS)
            best = prior if evidence > max(history) else best
            history.append(evidence)
            if abs(gain) < TOLERANCE:
                break
        elif n_steps > 1:
            (prior, potentials), n_steps = accepted, max(n_steps // 4, 1)
        else:
            break
        # Components that overlap gain little per step, but many steps add up.
        prior, _ = learn(prior, join(potentials), n_steps=n_steps, tolerance=TOLERANCE / 10)
    return best, history[1:]


def join(potentials: Sequence[Potential]) -> Potential:
    """Put the potentials of all runs together; a voxel that has none must not spoil the prior."""
    joined = Potential(
        torch.cat([item.precision for item in potentials]),
        torch.cat([item.shift for item in potentials]),
        torch.cat([item.constant for item in potentials]),
    )
    finite = torch.isfinite(joined.constant)
    return joined.select(finite if finite.dim() == 1 else finite.all(dim=1))


def _tissue_range(signal_model: SignalModel, like: Tensor) -> tuple[Tensor, Tensor]:
    """Give the latent images of the ranges in which tissue means may lie."""
    ends = torch.tensor(
        [parameter.tissue for parameter in signal_model.parameters], dtype=torch.float64
    )
    lower = signal_model.to_real(ends[:, 0]).to(like)
    return lower, signal_model.to_real(ends[:, 1]).to(like)
