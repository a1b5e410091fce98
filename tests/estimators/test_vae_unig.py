"""The autoencoder with a Gaussian prior, on the benchmark of Xu et al. 2024."""

import pytest
import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.vae_unig import VAEUniG


def correlation(posterior, simulated):
    tissue = simulated.tissue
    pair = torch.stack([posterior.mean[tissue, 0], simulated.values[tissue, 0]])
    return float(torch.corrcoef(pair)[0, 1])


@pytest.fixture(scope="module")
def simulated(simulate):
    return simulate("msdki_paper", 600, snr=50)


def fit(simulated, **changes):
    settings = ModelSettings(**{"n_epochs": 40, **changes})
    return VAEUniG(simulated.signal_model, settings).fit(simulated.run)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_seed_collapses(simulated, seed):
    posterior = fit(simulated, random_seed=seed).posterior(simulated.run)
    assert correlation(posterior, simulated) > 0.9
    assert (posterior.std > 0).all()


def test_a_heavy_prior_pulls_all_voxels_together(simulated):
    light = fit(simulated, kl_weight=1e-5).posterior(simulated.run)
    heavy = fit(simulated, kl_weight=10.0).posterior(simulated.run)
    tissue = simulated.tissue
    assert heavy.mean[tissue, 0].std() < 0.1 * light.mean[tissue, 0].std()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_every_seed_beats_the_best_published_seed(simulate, seed):
    # 288 volumes, SNR 50, diffusivity: .027 um^2/ms in white matter, .039 in grey, best of five.
    # The published code effectively trains with far less divergence than its weight of 1e-3.
    simulated = simulate("msdki_paper", 2000, snr=50, n_b0=18, n_directions=90)
    posterior = fit(simulated, n_epochs=100, kl_weight=1e-4, random_seed=seed).posterior(
        simulated.run
    )
    error = (posterior.mean - simulated.values)[:, 0]
    for label, published in ((1, 27e-6), (2, 39e-6)):
        assert error[simulated.labels == label].square().mean().sqrt() < published
