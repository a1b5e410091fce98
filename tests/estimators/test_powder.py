"""Shell averages in anisotropic tissue, against the expectation they should have."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.powder import average_shells, invert_harmonics, quadratic_basis
from bids_gmvae.likelihoods import Rician
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation import schemes
from bids_gmvae.simulation.noise import add_rician_noise
from bids_gmvae.simulation.tissues import sample_orientations

F64 = torch.float64
SIGMA = 0.05

get_scheme = cache(schemes.get_scheme)  # spreading directions takes a second


@pytest.fixture
def bvecs() -> Tensor:
    scheme = get_scheme("hcp")
    return scheme.bvecs[(scheme.bvals - 3000).abs() < 100]


def tensors(
    scheme: Acquisition, n: int, *, difference: float, radial: float = 0.35, sticks: float = 0.0
) -> Tensor:
    """Give the signals of fibres in all orientations; diffusivities in um^2/ms."""
    orientation = sample_orientations(n, torch.Generator().manual_seed(7))
    b = scheme.bvals / 1000
    decay = b * difference * (orientation @ scheme.bvecs.T) ** 2
    return torch.exp(-decay) * ((1 - sticks) * torch.exp(-b * radial) + sticks)


def excess(signal: Tensor, sigma: float, scheme: Acquisition) -> Tensor:
    """Sum over directions what is to be found, in units of the noise."""
    shells = find_shells(scheme)
    noise = torch.tensor(sigma, dtype=F64)
    of_volumes = shells.mean(Rician(signal, noise).mean)
    return (of_volumes - Rician(shells.mean(signal), noise).mean) / sigma


def found(
    signal: Tensor, sigma: float, scheme: Acquisition, *, dtype: torch.dtype = F64, **options: str
) -> Tensor:
    """Give what is subtracted from shell averages, in units of the noise."""
    magnitude = add_rician_noise(signal, sigma, torch.Generator().manual_seed(2))
    run = Measurements(magnitude, torch.full((len(signal),), sigma, dtype=F64), scheme)
    averages = average_shells(run.to("cpu", dtype), ModelSettings(**options))
    return (find_shells(scheme).mean(magnitude) - averages.means) / sigma


def with_directions(bvecs: Sequence[Tensor], bvals: Sequence[float]) -> Acquisition:
    """Give two b0s and shells with these directions."""
    weighted = [torch.full((len(g),), b, dtype=F64) for g, b in zip(bvecs, bvals, strict=True)]
    return Acquisition(
        bvals=torch.cat([torch.zeros(2, dtype=F64), *weighted]),
        bvecs=torch.cat([torch.zeros(2, 3, dtype=F64), *bvecs]),
    )


def test_the_quadratic_forms_are_orthonormal_and_traceless(bvecs):
    basis = quadratic_basis(bvecs)
    gram = basis.T @ basis / len(bvecs)
    torch.testing.assert_close(gram, torch.eye(5, dtype=F64), rtol=0, atol=0.03)
    torch.testing.assert_close(basis.mean(0), torch.zeros(5, dtype=F64), rtol=0, atol=0.02)


def test_harmonics_are_recovered_from_their_sum(bvecs):
    coefficients = torch.linspace(-1, 1, 5, dtype=F64)
    signal = 3 + quadratic_basis(bvecs[:12]) @ coefficients
    torch.testing.assert_close(signal @ invert_harmonics(bvecs[:12]), coefficients)


def test_directions_in_a_plane_determine_no_quadratic_form():
    angle = torch.arange(20, dtype=F64)
    flat = torch.stack([angle.cos(), angle.sin(), torch.zeros(20, dtype=F64)], dim=1)
    assert invert_harmonics(flat) is None


@pytest.mark.parametrize("scheme", ["hcp", "multishell"])
@pytest.mark.parametrize("sigma", [0.1, 0.05, 0.02])
@pytest.mark.parametrize("difference", [0.0, 0.4, 1.0, 1.7])
def test_the_excess_of_tensors_is_found_on_average(scheme, sigma, difference):
    acquisition = get_scheme(scheme)
    signal = tensors(acquisition, 600, difference=difference)
    error = found(signal, sigma, acquisition) - excess(signal, sigma, acquisition)
    assert error.mean(0).abs().max() < 0.012


def test_the_excess_of_sticks_in_zeppelins_is_found_on_average():
    acquisition = get_scheme("hcp")
    signal = tensors(acquisition, 600, difference=1.6, radial=0.5, sticks=0.5)
    true = excess(signal, SIGMA, acquisition)
    assert true.mean(0).max() > 0.2
    assert (found(signal, SIGMA, acquisition) - true).mean(0).abs().max() < 0.015


def test_fibres_crossing_at_right_angles_keep_little_of_their_excess():
    acquisition = get_scheme("hcp")
    first = sample_orientations(600, torch.Generator().manual_seed(1))
    other = torch.linalg.cross(first, sample_orientations(600, torch.Generator().manual_seed(2)))
    b = acquisition.bvals / 1000
    signal = torch.zeros(600, len(acquisition), dtype=F64)
    for fibre in (first, other / other.norm(dim=1, keepdim=True)):
        signal += torch.exp(-b * (0.2 + 1.6 * (fibre @ acquisition.bvecs.T) ** 2)) / 2
    true = excess(signal, SIGMA, acquisition)
    left = (true - found(signal, SIGMA, acquisition)).mean(0)
    assert left.abs().max() < 0.2 * true.mean(0).max()


@pytest.mark.parametrize("scheme", ["hcp", "multishell", "short"])
@pytest.mark.parametrize("diffusivity", [0.9, 3.0])
def test_isotropic_tissue_pays_nothing(scheme, diffusivity):
    acquisition = get_scheme(scheme)
    signal = torch.exp(-acquisition.bvals * diffusivity / 1000).expand(2000, -1)
    excess = found(signal, SIGMA, acquisition)
    of_the_mean = 1 / find_shells(acquisition).counts.to(F64).sqrt()
    assert (excess.mean(0).abs() < 0.02 * of_the_mean).all()
    assert (excess.std(0)[1:] < 0.2 * of_the_mean[1:]).all()  # adds 2 % to the variance at most


def test_repeated_directions_count_as_often_as_they_were_measured(bvecs):
    acquisition = with_directions([bvecs[:10].repeat(3, 1)] * 3, [1000, 2000, 3000])
    signal = tensors(acquisition, 600, difference=1.5)
    error = found(signal, SIGMA, acquisition) - excess(signal, SIGMA, acquisition)
    assert error.mean(0).abs().max() < 0.025


def test_shells_with_few_or_flat_directions_are_averaged_and_no_more(bvecs):
    flat = bvecs * torch.tensor([1.0, 1.0, 0.0], dtype=F64)
    flat = (flat / flat.norm(dim=1, keepdim=True))[:20]
    acquisition = with_directions([bvecs[:6], flat, bvecs], [1000, 2000, 3000])
    excess = found(tensors(acquisition, 50, difference=1.5), SIGMA, acquisition)
    torch.testing.assert_close(excess[:, :3], torch.zeros(50, 3, dtype=F64), rtol=0, atol=1e-12)
    assert excess[:, 3].mean() > 0.1


def test_normal_noise_bends_nothing():
    acquisition = get_scheme("multishell")
    signal = tensors(acquisition, 20, difference=1.5)
    excess = found(signal, SIGMA, acquisition, noise_model="gaussian")
    torch.testing.assert_close(excess, torch.zeros_like(excess), rtol=0, atol=1e-12)


def test_single_precision_is_enough():
    acquisition = get_scheme("multishell")
    signal = tensors(acquisition, 50, difference=1.5)
    single = found(signal, SIGMA, acquisition, dtype=torch.float32).double()
    torch.testing.assert_close(single, found(signal, SIGMA, acquisition), rtol=0, atol=1e-3)


def test_kurtosis_of_fibres_is_not_biased_by_the_noise_floor():
    """The trap of powder averages: uncorrected, K rises by several hundredths at SNR 20."""
    acquisition = get_scheme("hcp")
    model = get_signal_model("msdki")
    signal = tensors(acquisition, 1500, difference=1.6, radial=0.5, sticks=0.5)
    magnitude = add_rician_noise(signal, SIGMA, torch.Generator().manual_seed(2))
    sigma = torch.full((1500,), SIGMA, dtype=F64)
    undirected = Acquisition(bvals=acquisition.bvals)
    runs = {
        "true": Measurements(signal, sigma / 1000, undirected),
        "corrected": Measurements(magnitude, sigma, acquisition),
        "uncorrected": Measurements(magnitude, sigma, undirected),
    }
    kurtosis = {
        name: get_estimator("lsq")(model).fit(run).posterior(run).mean[:, 1].mean()
        for name, run in runs.items()
    }
    assert (kurtosis["corrected"] - kurtosis["true"]).abs() < 0.01
    assert kurtosis["uncorrected"] - kurtosis["true"] > 0.05
