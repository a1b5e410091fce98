"""Exact posteriors of shell averages, against integration by brute force."""

import pytest
import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.estimators.quadrature import (
    integrate_s0,
    integrate_s0_compiled,
    marginal_likelihood,
    match_moments,
)
from bids_gmvae.estimators.recognition import get_recognition
from bids_gmvae.priors import GaussianMixturePrior
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme

F64 = torch.float64
MODEL = get_signal_model("msdki")
#: Noise sd of the simulations here; the true S0 is 1.
SIGMA = 0.07


def problem_of(value, n_voxels=12, noise_model="rician"):
    generator = torch.Generator().manual_seed(9)
    scheme = get_scheme("short")
    values = torch.tensor([value], dtype=F64).expand(n_voxels, -1)
    signals = simulate_signals(MODEL, scheme, values, sigma=SIGMA, generator=generator)
    run = Measurements(signals, torch.full((n_voxels,), SIGMA, dtype=F64), scheme)
    return Problem.of(run, MODEL, ModelSettings(noise_model=noise_model))


def mixture_of(means, spread):
    """Give a mixture of round tissues and a broad component that does not matter."""
    means = torch.cat([torch.tensor(means, dtype=F64), torch.zeros(1, 2, dtype=F64)])
    identity = torch.eye(2, dtype=F64)
    covariances = torch.stack([spread**2 * identity] * (len(means) - 1) + [identity])
    weights = torch.full((len(means),), 1 / (len(means) - 1), dtype=F64)
    weights[-1] = 1e-12
    return GaussianMixturePrior(
        weights,
        means,
        covariances,
        means[0] - 3,
        means[0] + 3,
        fixed=torch.ones(len(means), dtype=torch.bool),
        pull=torch.zeros(2, dtype=F64),
    )


def brute_force(problem, prior):
    """Integrate the shell-mean likelihood over S0 and both latents."""
    z = torch.cartesian_prod(
        torch.linspace(-1.4, 2.3, 75, dtype=F64), torch.linspace(-1.9, 2.2, 61, dtype=F64)
    )
    density = torch.zeros(len(z), dtype=F64)
    for weight, mean, covariance in zip(
        prior.weights, prior.means, prior.covariances, strict=True
    ):
        normal = torch.distributions.MultivariateNormal(mean, covariance)
        density += weight * normal.log_prob(z).exp()
    means, evidences = [], []
    s0 = torch.linspace(0.75, 1.25, 41, dtype=F64)
    for voxel in range(len(problem)):
        part = problem.select(torch.full((len(z),), voxel))
        mass = torch.zeros(len(z), dtype=F64)
        for level in s0:
            likelihood = part.log_likelihood(State(level.log().expand(len(z)), z))
            mass += torch.exp(likelihood) * density
        means.append((mass[:, None] * z).sum(0) / mass.sum())
        evidences.append(torch.log(mass.sum()))
    return torch.stack(means), torch.stack(evidences)


@pytest.mark.parametrize(
    ("value", "tissues", "spread"),
    [
        ([1.0e-3, 0.6], [[-0.5, -0.4]], 0.39),
        ([1.0e-3, 0.6], [[-0.6, 0.14], [-0.5, -0.43]], 0.15),
        ([3.0e-3, 0.0], [[-0.5, -0.4], [1.5, -1.2]], 0.12),
    ],
    ids=["grey matter, wide prior", "between two tissues", "free water under the noise floor"],
)
def test_matched_potentials_give_the_exact_posterior(value, tissues, spread):
    problem, prior = problem_of(value), mixture_of(tissues, spread)
    recognition = get_recognition("newton")
    recognised = recognition.first(problem)
    potential = recognition.under_each(problem, recognised, prior)
    for _ in range(2):
        potential = match_moments(
            problem, recognised.state.log_s0, potential, prior.posterior(potential), prior
        )
    posterior = prior.posterior(potential)
    mean = torch.einsum("vk,vkp->vp", posterior.responsibilities, posterior.means)
    truth, evidence = brute_force(problem, prior)
    assert (mean - truth).abs().max() < 0.03 * max(spread, 0.2)
    # Evidences agree up to the constants of densities and grid: the same for every voxel.
    difference = posterior.log_evidence - evidence
    assert difference.max() - difference.min() < 0.02


@pytest.mark.parametrize("noise_model", ["rician", "gaussian"])
def test_s0_is_integrated_out_alike_by_tensors_and_compiled(noise_model):
    problem = problem_of([1.0e-3, 0.6], noise_model=noise_model)
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(len(problem), 5, 2, dtype=F64, generator=generator) * 0.3 - 0.4
    voxel, level = torch.arange(len(problem)), problem.start().log_s0
    relative = MODEL(MODEL.to_physical(points), problem.acquisition)
    compiled = integrate_s0_compiled(problem, voxel, level, relative)
    expected = integrate_s0(problem, voxel, level, relative)
    # Constants that depend on the data alone may differ.
    difference = compiled - expected
    assert (difference - difference.mean(dim=1, keepdim=True)).abs().max() < 0.01


def test_s0_integrated_out_equals_a_sum_over_s0():
    problem = problem_of([1.0e-3, 0.6], n_voxels=3)
    points = torch.tensor([[-0.5, -0.43], [-0.3, 0.2], [0.0, -0.5]], dtype=F64)
    rows = torch.arange(3)
    found = marginal_likelihood(
        problem, rows, problem.start().log_s0, points.expand(3, -1, -1).contiguous()
    )
    s0 = torch.linspace(0.5, 1.5, 4001, dtype=F64)
    for voxel in range(3):
        part = problem.select(torch.full((len(s0),), voxel))
        truth = torch.stack(
            [
                torch.logsumexp(part.log_likelihood(State(s0.log(), point.expand(4001, -1))), 0)
                for point in points
            ]
        )
        difference = found[voxel] - truth
        assert difference.max() - difference.min() < 0.02
