"""Noise models, against SciPy, automatic differentiation and quadrature."""

import numpy as np
import pytest
import torch
from scipy import stats

from bids_gmvae.exceptions import UnknownNameError
from bids_gmvae.likelihoods import Gaussian, Rician, get_noise_model, invert_rician_mean

SIGMA = 0.7
#: From below the noise floor to beyond the switch to the asymptotic variance.
RATIOS = torch.tensor([0.05, 0.5, 1.0, 2.0, 5.0, 19.0, 21.0, 60.0], dtype=torch.float64)
SIGNAL = RATIOS * SIGMA


@pytest.fixture
def rician():
    return Rician(SIGNAL, torch.full_like(SIGNAL, SIGMA))


def test_rician_moments_equal_scipys(rician):
    # SciPy's own moments overflow beyond a ratio of some 35.
    known = RATIOS < 30
    reference = stats.rice(RATIOS[known].numpy(), scale=SIGMA)
    np.testing.assert_allclose(rician.mean[known], reference.mean(), rtol=1e-8)
    np.testing.assert_allclose(rician.variance[known], reference.var(), rtol=2e-5)


def test_rician_density_equals_scipys(rician):
    value = torch.tensor([0.2, 0.9, 3.0], dtype=torch.float64)[:, None]
    reference = stats.rice(RATIOS.numpy(), scale=SIGMA).logpdf(value.numpy())
    finite = np.isfinite(reference)
    np.testing.assert_allclose(rician.log_prob(value)[finite], reference[finite], rtol=1e-7)


@pytest.mark.parametrize("noise_model", [Rician, Gaussian])
def test_score_and_slopes_are_derivatives(noise_model):
    sigma = torch.full_like(SIGNAL, SIGMA)
    value = SIGNAL + 0.3
    signal = SIGNAL.clone().requires_grad_()
    noise = noise_model(signal, sigma)
    for quantity, derivative in (
        (noise.log_prob(value), noise.score(value)),
        (noise.mean, noise.mean_slope),
        (noise.variance, noise.variance_slope),
    ):
        if not quantity.requires_grad:
            assert (derivative == 0).all()
            continue
        (expected,) = torch.autograd.grad(quantity.sum(), signal, retain_graph=True)
        torch.testing.assert_close(derivative.detach(), expected, rtol=2e-3, atol=1e-5)


def test_information_is_the_mean_square_score(rician):
    value = torch.linspace(1e-4, SIGMA * 75, 40_001, dtype=torch.float64)[:, None]
    mean_square = torch.trapezoid(
        torch.exp(rician.log_prob(value)) * rician.score(value) ** 2, value, dim=0
    )
    torch.testing.assert_close(rician.information, mean_square, rtol=1e-3, atol=3e-4)


def test_the_rician_mean_is_inverted_down_to_the_floor(rician):
    sigma = torch.full_like(SIGNAL, SIGMA)
    torch.testing.assert_close(invert_rician_mean(rician.mean, sigma), SIGNAL, rtol=1e-9, atol=0)
    below = torch.tensor([0.0, 0.5, 1.25], dtype=torch.float64) * SIGMA
    assert (invert_rician_mean(below, torch.full_like(below, SIGMA)) == 0).all()


def test_drawn_magnitudes_have_the_moments():
    rician = Rician(torch.tensor([1.0]), torch.tensor([0.8]))
    drawn = rician.sample((200_000,))
    torch.testing.assert_close(drawn.mean(0), rician.mean, rtol=0.01, atol=0)
    torch.testing.assert_close(drawn.var(0), rician.variance, rtol=0.02, atol=0)


def test_an_unknown_noise_model_is_named():
    with pytest.raises(UnknownNameError, match=r"noise model 'rice'.*rician"):
        get_noise_model("rice")
