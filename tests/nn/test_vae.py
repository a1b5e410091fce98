"""Networks whose decoder is a signal model."""

import math

import pytest
import torch

from bids_gmvae.nn.vae import DirectNetwork, GaussianMixtureVAE, GaussianVAE
from bids_gmvae.signal_models import get_signal_model

MODEL = get_signal_model("msdki")
SIGNALS = torch.rand(6, 10, generator=torch.Generator().manual_seed(0))


def mixture(**changes):
    return GaussianMixtureVAE(MODEL, 10, 8, **{"n_components": 3, "temperature": 1.0, **changes})


def silence(layer):
    """Make a layer give zero."""
    for weights in layer.parameters():
        torch.nn.init.zeros_(weights)


@pytest.mark.parametrize(
    "network", [DirectNetwork(MODEL, 10), GaussianVAE(MODEL, 10, 8), mixture()]
)
def test_shared_noise_gives_the_same_as_its_copies(network):
    noise = torch.randn(4, 1, network.n_noise)
    shared = network(SIGNALS, noise)
    assert shared.values.shape == (4, 6, 2)
    copied = network(SIGNALS, noise[2].expand(6, -1))
    torch.testing.assert_close(shared.values[2], copied.values)
    torch.testing.assert_close(
        shared.kl.expand(4, 6)[2] if shared.kl.ndim == 1 else shared.kl[2], copied.kl
    )


def test_without_a_latent_there_is_no_divergence():
    network = DirectNetwork(MODEL, 10)
    assert (network(SIGNALS, torch.zeros(6, 0)).kl == 0).all()


def test_a_latent_equal_to_its_prior_has_no_divergence():
    network = GaussianVAE(MODEL, 10, 8)
    silence(network.moments)
    draw = network(SIGNALS, torch.randn(6, network.n_noise))
    torch.testing.assert_close(draw.kl, torch.zeros(6))


def test_the_divergence_is_the_textbook_one():
    network = GaussianVAE(MODEL, 10, 8)
    draw = network(SIGNALS, torch.randn(6, network.n_noise))
    mean, log_variance = network.moments(network.encoder(SIGNALS)).chunk(2, dim=-1)
    expected = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=-1)
    torch.testing.assert_close(draw.kl, expected)


def test_an_undecided_component_around_the_origin_has_no_divergence():
    network = mixture()
    for layer in (network.logits, network.moments, network.component_moments):
        silence(layer)
    torch.nn.init.zeros_(network.component_means)
    draw = network(SIGNALS, torch.randn(6, network.n_noise))
    torch.testing.assert_close(draw.kl, torch.zeros(6), rtol=0, atol=1e-6)


def test_a_decided_component_costs_its_information():
    network = mixture()
    for layer in (network.logits, network.moments, network.component_moments):
        silence(layer)
    torch.nn.init.zeros_(network.component_means)
    network.logits.bias.data[0] = 50.0
    draw = network(SIGNALS, torch.randn(6, network.n_noise))
    torch.testing.assert_close(draw.kl, torch.full((6,), math.log(3)))
    torch.testing.assert_close(draw.log_responsibilities[:, 0].exp(), torch.ones(6))


def test_components_are_drawn_as_often_as_they_are_probable():
    # At temperature 0 the Gumbel-softmax is a draw from the categorical (the Gumbel-max trick);
    # the mean of the prior tells which one was drawn.
    network = mixture(temperature=1e-4)
    noise = torch.randn(20000, 1, network.n_noise, generator=torch.Generator().manual_seed(1))
    network.component_means.data = torch.eye(3, 8)
    draw = network(SIGNALS[:1], noise)
    frequency = draw.prior.mean[:, 0, :3].mean(dim=0)
    torch.testing.assert_close(frequency, draw.log_responsibilities[0].exp(), rtol=0, atol=0.015)
