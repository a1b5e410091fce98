"""Moments and quantiles of mixtures, against draws from the same posterior."""

import pytest
import torch

from bids_gmvae.estimators import moments as module
from bids_gmvae.estimators.moments import derived_moments, draw, moments, quantiles
from bids_gmvae.priors import MixturePosterior
from bids_gmvae.signal_models import SIGNAL_MODELS, get_signal_model

F64 = torch.float64
MODEL = get_signal_model("ball_stick")


@pytest.fixture(scope="module")
def mixture():
    """Give posteriors with one peak, with two far apart, and with one very narrow peak."""
    generator = torch.Generator().manual_seed(2)
    means = torch.randn(3, 2, 3, dtype=F64, generator=generator)
    root = 0.3 * torch.randn(3, 2, 3, 3, dtype=F64, generator=generator)
    covariances = root @ root.transpose(-1, -2) + 0.01 * torch.eye(3, dtype=F64)
    covariances[2, 0] = 1e-6 * torch.eye(3, dtype=F64)
    weights = torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.7, 0.3]], dtype=F64)
    return MixturePosterior(weights, means, covariances, torch.zeros(3, dtype=F64))


@pytest.fixture(scope="module")
def samples(mixture):
    return draw(mixture, MODEL, 20_000, torch.Generator().manual_seed(3)).double()


def test_moments_are_those_of_many_draws(mixture, samples):
    mean, std = moments(mixture, MODEL)
    torch.testing.assert_close(mean, samples.mean(-1), rtol=0.02, atol=0)
    torch.testing.assert_close(std, samples.std(-1), rtol=0.04, atol=1e-9)


def test_the_central_interval_holds_the_middle_of_many_draws(mixture, samples):
    interval = quantiles(mixture, MODEL)
    for end, probability in enumerate((0.158655, 0.841345)):
        below = (samples < interval[..., end, None]).double().mean(-1)
        assert (below - probability).abs().max() < 0.012


@pytest.mark.parametrize("name", SIGNAL_MODELS)
def test_compiled_code_gives_what_torch_gives(mixture, monkeypatch, name):
    model = SIGNAL_MODELS[name]()
    n = len(model.parameters)
    mixture = MixturePosterior(
        mixture.responsibilities, mixture.means[..., :n], mixture.covariances[..., :n, :n],
        mixture.log_evidence,
    )  # fmt: skip
    functions = (moments, quantiles, derived_moments)
    compiled = [function(mixture, model) for function in functions]
    monkeypatch.setattr(module, "_is_compiled", lambda like: False)
    slow = [function(mixture, model) for function in functions]
    torch.testing.assert_close(compiled[0], slow[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(compiled[1], slow[1], rtol=1e-4, atol=0)
    assert compiled[2].keys() == slow[2].keys()
    for parameter, pair in slow[2].items():
        torch.testing.assert_close(compiled[2][parameter], pair, rtol=1e-4, atol=0)
