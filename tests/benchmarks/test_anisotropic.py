"""Fibres of the benchmark of powder averages, against what is known of them."""

import pytest
import torch

from benchmarks.anisotropic import Fibres, fibre_signals, volume_excess
from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.likelihoods import Rician
from bids_gmvae.simulation.schemes import get_scheme


@pytest.fixture(scope="module")
def scheme() -> Acquisition:
    return get_scheme("multishell")


@pytest.mark.parametrize("shape", [{}, {"crossing": 60.0}, {"fanning": 0.5}])
def test_the_powder_average_is_that_of_one_stick_however_fibres_lie(scheme, shape, monkeypatch):
    monkeypatch.setattr("benchmarks.anisotropic.VARIATION", 0.0)
    fibres = Fibres(stick=1.0, axial=1.5, radial=0.0, **shape)
    signals = fibre_signals(fibres, scheme, 300, torch.Generator().manual_seed(1))
    shells = find_shells(scheme)
    root = (shells.acquisition.bvals[1:] / 1000 * fibres.axial).sqrt()
    expected = torch.pi**0.5 / 2 * torch.erf(root) / root
    torch.testing.assert_close(
        shells.mean(signals)[:, 1:].mean(dim=0), expected, rtol=3e-3, atol=0
    )


def test_magnitudes_less_the_excess_average_to_that_of_the_powder_average(scheme):
    fibres = Fibres(stick=0.5, axial=2.0, radial=0.4)
    signals = fibre_signals(fibres, scheme, 20, torch.Generator().manual_seed(1))
    noise = torch.tensor(0.05, dtype=torch.float64)
    shells = find_shells(scheme)
    freed = Rician(signals, noise).mean - volume_excess(signals, scheme, 0.05)
    expected = Rician(shells.mean(signals), noise).mean
    torch.testing.assert_close(shells.mean(freed), expected)
    assert volume_excess(signals, scheme, 0.05).mean() > 0
