import pytest
import torch

from benchmarks.oracles import TruePrior, bayes_optimal, cramer_rao
from benchmarks.samples import draw_sample
from bids_gmvae.acquisition import find_shells
from bids_gmvae.likelihoods import Rician
from bids_gmvae.simulation.tissues import get_population


def brute_force(sample, prior, voxel):
    """Average over a dense grid of D, K and log S0; the shell means are normal."""
    model, run = sample.model, sample.run
    shells = find_shells(run.acquisition)
    means = shells.mean(run.signals)[voxel]
    d = torch.linspace(0.3e-3, 3.3e-3, 161, dtype=torch.float64)
    k = torch.linspace(-0.25, 2.1, 121, dtype=torch.float64)
    values = torch.cartesian_prod(d, k)
    log_prior = prior.distribution.log_prob(model.to_real(values))
    values, log_prior = values[log_prior > -20], log_prior[log_prior > -20]
    relative = model(values, shells.acquisition)
    log_s0 = torch.linspace(-4.5, 4.5, 37, dtype=torch.float64) * run.sigma[0] / 2**0.5
    rician = Rician(means[0] * log_s0.exp()[:, None, None] * relative, run.sigma[0])
    sd = (rician.variance / shells.counts).sqrt()
    joint = torch.distributions.Normal(rician.mean, sd).log_prob(means).sum(dim=-1)
    weights = (joint.logsumexp(dim=0) + log_prior).softmax(dim=0)
    mean = weights @ values
    return mean, (weights @ (values - mean) ** 2).sqrt()


@pytest.mark.parametrize("snr", [10, 30])
def test_bayes_optimal_estimates_are_averages_over_a_dense_grid(snr):
    sample = draw_sample("msdki", "short", snr, n_voxels=8, seed=3)
    prior = TruePrior.of(get_population("msdki"))
    oracle = bayes_optimal(sample.run, sample.model, prior)
    for voxel in range(8):
        mean, std = brute_force(sample, prior, voxel)
        assert ((oracle.mean[voxel] - mean).abs() < 0.01 * std).all()
        torch.testing.assert_close(oracle.std[voxel], std, rtol=0.01, atol=0.0)


def test_bayes_optimal_intervals_hold_what_they_promise():
    sample = draw_sample("msdki", "short", 20, n_voxels=2000, seed=1)
    oracle = bayes_optimal(sample.run, sample.model, TruePrior.of(get_population("msdki")))
    inside = (oracle.mean - sample.values).abs() < oracle.std
    torch.testing.assert_close(
        inside.double().mean(dim=0), torch.full((2,), 0.683).double(), atol=0.03, rtol=0
    )


def test_the_bound_agrees_with_gaussian_error_propagation_at_high_snr():
    sample = draw_sample("msdki", "short", 1e6, n_voxels=3, seed=0)
    acquisition, sigma = sample.run.acquisition, sample.sigma
    jacobian = []
    for values in sample.values:
        parts = torch.func.jacrev(lambda v: sample.model(v[None], acquisition)[0])(values)
        signal = sample.model(values[None], acquisition)[0]
        jacobian.append(torch.cat([signal[:, None], parts], dim=1))
    jacobian = torch.stack(jacobian)
    expected = sigma * (jacobian.mT @ jacobian).inverse().diagonal(dim1=1, dim2=2).sqrt()[:, 1:]
    bound = cramer_rao(sample.model, acquisition, sample.values, sigma)
    torch.testing.assert_close(bound, expected, rtol=1e-4, atol=0.0)


def test_the_bound_is_infinite_where_nothing_tells_the_parameter():
    sample = draw_sample("msdki", "short", 20, n_voxels=1, seed=0)
    beyond = torch.tensor([[2e-3, 2.5]], dtype=torch.float64)  # the decay stops at K = 1
    assert cramer_rao(sample.model, sample.run.acquisition, beyond, 0.05).isinf().all()
