"""The self-supervised network, on the benchmark of Xu et al. 2024."""

import pytest
import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.mlp import MLP


def correlation(posterior, simulated):
    tissue = simulated.tissue
    pair = torch.stack([posterior.mean[tissue, 0], simulated.values[tissue, 0]])
    return float(torch.corrcoef(pair)[0, 1])


@pytest.fixture(scope="module")
def simulated(simulate):
    return simulate("msdki_paper", 600, snr=50)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_seed_collapses(simulated, seed):
    settings = ModelSettings(n_epochs=25, random_seed=seed)
    posterior = MLP(simulated.signal_model, settings).fit(simulated.run).posterior(simulated.run)
    assert correlation(posterior, simulated) > 0.95


def test_it_claims_no_uncertainty(simulated):
    fit = MLP(simulated.signal_model, ModelSettings(n_epochs=1)).fit(simulated.run)
    posterior = fit.posterior(simulated.run)
    assert posterior.std.isnan().all()
    assert posterior.mean.isfinite().all()
    assert posterior.responsibilities is None
    assert posterior.prior_influence is None
    assert posterior.unexpected is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_every_seed_beats_the_best_published_seed(simulate, seed):
    # 288 volumes, SNR 50, diffusivity: .027 um^2/ms in white matter, .041 in grey, best of five.
    simulated = simulate("msdki_paper", 2000, snr=50, n_b0=18, n_directions=90)
    settings = ModelSettings(random_seed=seed)
    posterior = MLP(simulated.signal_model, settings).fit(simulated.run).posterior(simulated.run)
    error = (posterior.mean - simulated.values)[:, 0]
    for label, published in ((1, 27e-6), (2, 41e-6)):
        assert error[simulated.labels == label].square().mean().sqrt() < published
