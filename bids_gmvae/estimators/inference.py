"""What voxels say under a mixture prior: the same for maps and for learning a prior of many."""

from __future__ import annotations

from bids_gmvae.estimators.learning import join
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.quadrature import NEGLIGIBLE, NEGLIGIBLE_AT_FIRST, match_moments
from bids_gmvae.estimators.recognition import Recognised, Recognition
from bids_gmvae.priors import GaussianMixturePrior, Potential, Statistics


def infer(
    problem: Problem, recognition: Recognition, prior: GaussianMixturePrior
) -> tuple[Potential, Recognised]:
    """Summarise every voxel's likelihood where a prior puts its mass.

    Parameters
    ----------
    problem : Problem
        The data.
    recognition : Recognition
        Trained.
    prior : GaussianMixturePrior
        On the device of the data.

    Returns
    -------
    potential : Potential
        Combined with the prior, it gives the posterior.
    recognised : Recognised
        For shell averages the mode under the broad population, else under the prior.
    """
    recognised = recognition.first(problem)
    if problem.averaged:
        potential = recognition.under_each(problem, recognised, prior)
        for negligible in (NEGLIGIBLE_AT_FIRST, NEGLIGIBLE):
            potential = match_moments(
                problem, recognised.state.log_s0, potential, prior.posterior(potential), prior,
                negligible=negligible,
            )  # fmt: skip
        return potential, recognised
    mixture = prior.posterior(recognised.potential)
    recognised = recognition.refine(problem, recognised, mixture, prior)
    return recognition.with_rival(problem, recognised, prior)


def expect(problem: Problem, recognition: Recognition, prior: GaussianMixturePrior) -> Statistics:
    """Sum over the voxels of a run what they contribute to the next prior."""
    potential, _ = infer(problem, recognition, prior)
    return prior.expect(join([potential]))
