"""The simulated magnitudes follow the physics and the Rician law."""

import math

import pytest
import torch
from scipy.stats import rice

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import add_rician_noise, modulate, simulate_signals
from bids_gmvae.simulation.tissues import sample_orientations, sample_population


@pytest.fixture
def acquisition() -> Acquisition:
    bvals = torch.tensor([0.0] * 3 + [1000.0] * 20 + [3000.0] * 20, dtype=torch.float64)
    bvecs = sample_orientations(43, torch.Generator().manual_seed(1))
    bvecs[:3] = 0
    return Acquisition(bvals=bvals, bvecs=bvecs)


@pytest.mark.parametrize("snr", [0.5, 2.0, 20.0])
def test_magnitudes_have_rician_moments(snr: float) -> None:
    signals = torch.full((1, 200_000), snr * 3.0, dtype=torch.float64)
    magnitudes = add_rician_noise(signals, 3.0, torch.Generator().manual_seed(0))
    law = rice(snr, scale=3.0)
    standard_error = law.std() / math.sqrt(magnitudes.numel())
    assert abs(magnitudes.mean() - law.mean()) < 4 * standard_error
    assert float(magnitudes.std()) == pytest.approx(law.std(), rel=0.01)


def test_modulation_keeps_the_powder_average(acquisition: Acquisition) -> None:
    generator = torch.Generator().manual_seed(0)
    model = get_signal_model("msdki")
    values, _ = sample_population("msdki", 50, generator)
    orientation = sample_orientations(50, generator)
    signals = model(values, acquisition)
    modulated = modulate(signals, acquisition, orientation, 1.2e-3)
    shells = find_shells(acquisition)
    torch.testing.assert_close(shells.mean(modulated), shells.mean(signals), rtol=1e-12, atol=0)
    spread = modulated[:, acquisition.bvals == 3000].std(dim=1)
    assert (spread > 0.3 * signals[:, -1]).all()


def test_without_noise_the_signal_is_that_of_the_model(acquisition: Acquisition) -> None:
    generator = torch.Generator().manual_seed(0)
    model = get_signal_model("ball_stick")
    values, _ = sample_population("ball_stick", 5, generator)
    orientation = sample_orientations(5, generator)
    s0 = torch.arange(1.0, 6.0, dtype=torch.float64)
    simulated = simulate_signals(
        model, acquisition, values, orientation=orientation, s0=s0, sigma=0.0, generator=generator
    )
    expected = s0[:, None] * model(values, acquisition, orientation)
    torch.testing.assert_close(simulated, expected)
