"""Moment-matched potentials, against integration by brute force."""

import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.estimators.quadrature import match_moments
from bids_gmvae.estimators.recognition import get_recognition
from bids_gmvae.priors import GaussianMixturePrior
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme

F64 = torch.float64


def one_component(problem):
    """Give a mixture of one tissue and a broad component that does not matter."""
    mean = torch.tensor([[-0.5, -0.4], [0.0, 0.0]], dtype=F64)
    covariance = torch.stack([0.15 * torch.eye(2, dtype=F64), torch.eye(2, dtype=F64)])
    weights = torch.tensor([1 - 1e-12, 1e-12], dtype=F64)
    return GaussianMixturePrior(weights, mean, covariance, mean[0] - 3, mean[0] + 3)


def brute_force(problem, prior):
    """Integrate the shell-mean likelihood over S0 and both latents."""
    z = torch.cartesian_prod(
        torch.linspace(-1.4, 0.8, 45, dtype=F64), torch.linspace(-1.8, 2.2, 61, dtype=F64)
    )
    normal = torch.distributions.MultivariateNormal(prior.means[0], prior.covariances[0])
    means = []
    for voxel in range(len(problem)):
        part = problem.select(torch.full((len(z),), voxel))
        density = torch.zeros(len(z), dtype=F64)
        for s0 in torch.linspace(0.75, 1.25, 41, dtype=F64):
            likelihood = part.log_likelihood(State(s0.log().expand(len(z)), z))
            density += torch.exp(likelihood - 8) * normal.log_prob(z).exp()
        means.append((density[:, None] * z).sum(0) / density.sum())
    return torch.stack(means)


def test_matched_means_are_closer_to_the_truth_than_the_curvature_says():
    generator = torch.Generator().manual_seed(9)
    model, scheme = get_signal_model("msdki"), get_scheme("short")
    values = torch.tensor([[1.0e-3, 0.6]], dtype=F64).expand(12, -1)
    signals = simulate_signals(model, scheme, values, sigma=0.07, generator=generator)
    run = Measurements(signals, torch.full((12,), 0.07, dtype=F64), scheme)
    problem = Problem.of(run, model, ModelSettings())
    prior = one_component(problem)
    recognition = get_recognition("newton")
    recognised = recognition.first(problem)
    mixture = prior.posterior(recognised.potential)
    recognised = recognition.refine(problem, recognised, mixture, prior)
    mixture = prior.posterior(recognised.potential)
    truth = brute_force(problem, prior)
    potential = recognised.potential
    before = (mixture.means[:, 0] - truth).abs().mean()
    for _ in range(2):
        potential = match_moments(problem, recognised.state, potential, mixture, prior)
        mixture = prior.posterior(potential)
    after = (mixture.means[:, 0] - truth).abs().mean()
    assert after < 0.5 * before
    assert after < 0.03
