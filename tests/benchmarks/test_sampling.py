import torch

from benchmarks.oracles import TruePrior
from benchmarks.samples import draw_sample
from benchmarks.sampling import bayes_by_sampling, log_likelihood
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.likelihoods import Rician
from bids_gmvae.simulation.tissues import get_population, sample_orientations

PRIOR = TruePrior.of(get_population("ball_stick"))


def test_the_compiled_likelihood_is_that_of_all_volumes():
    sample = draw_sample("ball_stick", "singleshell", 5, n_voxels=4, seed=0)
    problem = Problem.of(sample.run, sample.model, ModelSettings())
    s0 = torch.tensor([0.8, 1.0, 1.2], dtype=torch.float64).expand(4, 3)
    values = sample.values[:, None].expand(4, 3, 3)
    fibre = sample.orientation[:, None].expand(4, 3, 3)
    relative = sample.model(sample.values, sample.run.acquisition, sample.orientation)
    signal = s0[..., None] * relative[:, None]
    expected = Rician(signal, sample.run.sigma[:, None, None]).log_prob(
        sample.run.signals[:, None]
    )
    found = log_likelihood(problem, s0, values, fibre)
    # Equal up to a constant of the voxel.
    difference = found - expected.sum(dim=-1)
    torch.testing.assert_close(difference, difference[:, :1].expand(4, 3), atol=1e-4, rtol=0)


def test_importance_sampling_agrees_with_draws_from_the_prior():
    n_voxels, n_draws = 2, 300_000
    sample = draw_sample("ball_stick", "singleshell", 3, n_voxels=n_voxels, seed=1)
    generator = torch.Generator().manual_seed(0)
    oracle = bayes_by_sampling(sample.run, sample.model, PRIOR, generator=generator, n_draws=4096)
    problem = Problem.of(sample.run, sample.model, ModelSettings())
    for voxel in range(n_voxels):
        values = sample.model.to_physical(PRIOR.distribution.sample((n_draws,)))
        fibre = sample_orientations(n_draws, generator)
        # Flat in log S0, within what the b0 volumes allow.
        s0 = torch.exp(torch.linspace(-0.6, 0.6, n_draws)[torch.randperm(n_draws)])
        log_weights = log_likelihood(
            problem.select(slice(voxel, voxel + 1)), s0[None], values[None], fibre[None]
        )[0]
        weights = log_weights.softmax(dim=0)
        mean = weights @ values
        assert 1 / weights.square().sum() > 200
        assert ((oracle.mean[voxel] - mean).abs() < 0.2 * oracle.std[voxel]).all()


def test_the_axis_is_found_where_the_data_tell_it():
    sample = draw_sample("ball_stick", "multishell", 50, n_voxels=20, seed=2)
    oracle = bayes_by_sampling(
        sample.run, sample.model, PRIOR, generator=torch.Generator().manual_seed(0)
    )
    white = sample.labels == 1
    cosine = (oracle.orientation * sample.orientation).sum(dim=1).abs()
    assert (cosine[white] > 0.999).all()
    assert (oracle.effective[white] > 30).all()
