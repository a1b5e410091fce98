"""The noise level, against the one that was put in."""

import numpy as np
import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.noise import noise_sigma, residual_variance
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.io.measured import noise_level
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_orientations, sample_population
from bids_gmvae.voxels import Grid


def noisy(scheme, model_name, sigma, n=2000):
    generator = torch.Generator().manual_seed(5)
    model = get_signal_model(model_name)
    values, _ = sample_population(model_name, n, generator)
    orientation = sample_orientations(n, generator) if model.directional else None
    return simulate_signals(
        model, scheme, values, orientation=orientation, sigma=sigma, generator=generator
    )


def found(signals, scheme):
    """Estimate one level from all voxels, as if they were neighbours."""
    residual = residual_variance(signals, scheme, ModelSettings())

    def average(columns):
        return columns.mean(dim=0, keepdim=True).expand_as(columns)

    return noise_sigma(residual, average, noise_model="rician").mean().item()


@pytest.mark.parametrize("snr", [5, 10, 20, 50])
@pytest.mark.parametrize(
    ("name", "model"),
    [("hcp", "ball_stick"), ("multishell", "ball_stick"), ("short", "msdki")],
)
def test_sigma_is_found_at_any_signal_to_noise_ratio(name, model, snr):
    scheme = get_scheme(name)
    assert found(noisy(scheme, model, 1 / snr), scheme) * snr == pytest.approx(1, abs=0.04)


def test_fibres_are_not_taken_for_noise_where_directions_are_few():
    scheme = get_scheme("short")
    sigma = found(noisy(scheme, "ball_stick", 0.05), scheme)
    assert sigma / 0.05 == pytest.approx(1, abs=0.04)


def test_a_volume_with_half_the_signal_hardly_counts():
    scheme = get_scheme("hcp")
    signals = noisy(scheme, "ball_stick", 0.05)
    signals[:, torch.where(scheme.bvals == 1000)[0][3]] /= 2
    assert found(signals, scheme) / 0.05 == pytest.approx(1, abs=0.05)


def test_noise_that_varies_threefold_over_a_slice_is_followed():
    shape = (48, 48, 1)
    grid = Grid(shape, np.eye(4), 1, 1)
    distance = torch.linspace(-1, 1, 48, dtype=torch.float64) ** 2
    truth = 0.05 * torch.exp(0.5 - 0.5 * (distance[:, None] + distance)).reshape(-1)
    scheme = get_scheme("multishell")
    signals = noisy(scheme, "ball_stick", truth, n=len(truth)).float()
    sigma = noise_level(signals, np.ones(shape, bool), grid, scheme, ModelSettings())
    ratio = sigma / truth
    assert truth.max() / truth.min() > 2.5
    assert ratio.median().item() == pytest.approx(1, abs=0.03)
    assert ratio.quantile(0.05) > 0.9
    assert ratio.quantile(0.95) < 1.1


def test_repeats_alone_are_enough():
    scheme = Acquisition(bvals=torch.tensor([0.0, 1000.0, 2000.0]).double().repeat(4))
    sigma = found(noisy(scheme, "msdki", 0.05), scheme)
    assert sigma / 0.05 == pytest.approx(1, abs=0.03)


def test_one_b0_and_twelve_directions_are_enough():
    scheme = get_scheme("singleshell")
    few = scheme.select(torch.tensor([0, *torch.where(scheme.bvals > 0)[0][:12].tolist()]))
    sigma = found(noisy(few, "ball_stick_tied", 0.05), few)
    assert sigma / 0.05 == pytest.approx(1, abs=0.15)


def test_decay_over_echo_times_is_not_taken_for_noise():
    scheme = get_scheme("t2adc")
    assert found(noisy(scheme, "t2_adc", 0.05), scheme) / 0.05 == pytest.approx(1, abs=0.1)


def test_without_repeats_the_user_is_asked_for_a_noise_map():
    acquisition = Acquisition(bvals=torch.tensor([0.0, 1000.0, 2000.0], dtype=torch.float64))
    with pytest.raises(AcquisitionError, match="--noise-map"):
        residual_variance(torch.ones(4, 3, dtype=torch.float64), acquisition, ModelSettings())
