"""Shell averages in anisotropic tissue, against the expectation they should have."""

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.powder import anisotropy_excess, quadratic_basis
from bids_gmvae.likelihoods import Rician
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import add_rician_noise, modulate
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_orientations

F64 = torch.float64


@pytest.fixture
def bvecs():
    scheme = get_scheme("hcp")
    return scheme.bvecs[(scheme.bvals - 3000).abs() < 100]


def test_the_quadratic_forms_are_orthonormal_and_traceless(bvecs):
    basis = quadratic_basis(bvecs)
    gram = basis.T @ basis / len(bvecs)
    torch.testing.assert_close(gram, torch.eye(5, dtype=F64), rtol=0, atol=0.03)
    torch.testing.assert_close(basis.mean(0), torch.zeros(5, dtype=F64), rtol=0, atol=0.02)


def test_the_excess_of_a_fibre_is_found_from_expected_magnitudes(bvecs):
    sigma = torch.tensor([0.05], dtype=F64)
    cosine = bvecs @ torch.tensor([0.6, 0.0, 0.8], dtype=F64)
    signal = torch.exp(-3.0 * (0.3 + 1.0 * cosine**2))[None]
    magnitude = Rician(signal, sigma[:, None]).mean
    expected = magnitude.mean() - Rician(signal.mean(dim=1), sigma).mean
    excess = anisotropy_excess(magnitude, bvecs, sigma)
    torch.testing.assert_close(excess, expected, rtol=0.1, atol=0)


def test_isotropic_tissue_has_hardly_any_excess(bvecs):
    generator = torch.Generator().manual_seed(1)
    signal = torch.full((3000, len(bvecs)), 0.1, dtype=F64)
    sigma = torch.full((3000,), 0.05, dtype=F64)
    excess = anisotropy_excess(add_rician_noise(signal, 0.05, generator), bvecs, sigma)
    of_the_mean = 0.05 / len(bvecs) ** 0.5
    assert excess.mean().abs() < 0.1 * of_the_mean


def test_kurtosis_of_fibres_is_not_biased_by_the_noise_floor():
    """The trap of powder averages: uncorrected, K rises by several hundredths at SNR 20."""
    generator = torch.Generator().manual_seed(2)
    scheme, n = get_scheme("hcp"), 1500
    model = get_signal_model("msdki")
    values = torch.tensor([[0.77e-3, 1.03]], dtype=F64).expand(n, -1)
    mean_signal = model(values, scheme)
    signal = modulate(
        mean_signal, scheme, sample_orientations(n, generator), torch.full((n,), 1.5e-3, dtype=F64)
    )
    magnitude = add_rician_noise(signal, 0.05, generator)
    sigma = torch.full((n,), 0.05, dtype=F64)
    with_directions = Measurements(magnitude, sigma, scheme)
    without = Measurements(magnitude, sigma, Acquisition(bvals=scheme.bvals))
    bias = {}
    for name, run in (("corrected", with_directions), ("uncorrected", without)):
        posterior = get_estimator("lsq")(model, ModelSettings()).fit(run).posterior(run)
        bias[name] = (posterior.mean[:, 1] - 1.03).median().item()
    assert abs(bias["corrected"]) < 0.012
    assert bias["uncorrected"] > 0.03
