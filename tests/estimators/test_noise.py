"""The noise level, against the one that was put in."""

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.noise import noise_sigma, residual_variance
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_orientations, sample_population


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
