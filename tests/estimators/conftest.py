"""Simulated runs that the tests of estimators share."""

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.tissues import sample_orientations, sample_population

S0 = 400.0


class Simulated:
    """A run with its truth.

    Attributes
    ----------
    run : Measurements
        Noisy signals.
    values : Tensor of shape (n_voxels, n_parameters)
        True parameters, physical units.
    labels : Tensor of shape (n_voxels,)
        1 white matter, 2 grey matter, 3 cerebrospinal fluid.
    orientation : Tensor of shape (n_voxels, 3) or None
        True fibres of directional models.
    """

    def __init__(self, population, n_voxels, snr, *, n_b0=2, n_directions=10, seed=0):
        generator = torch.Generator().manual_seed(seed)
        model = get_signal_model(population.removesuffix("_paper"))
        shells = torch.tensor([1000.0, 2000.0, 3000.0], dtype=torch.float64)
        bvals = torch.cat([torch.zeros(n_b0), shells.repeat_interleave(n_directions)]).double()
        bvecs = sample_orientations(len(bvals), generator)
        bvecs[bvals == 0] = 0
        acquisition = Acquisition(bvals=bvals, bvecs=bvecs)
        self.signal_model = model
        self.values, self.labels = sample_population(population, n_voxels, generator)
        self.orientation = sample_orientations(n_voxels, generator) if model.directional else None
        signals = simulate_signals(
            model,
            acquisition,
            self.values,
            orientation=self.orientation,
            s0=S0,
            sigma=S0 / snr,
            generator=generator,
        )
        sigma = torch.full((n_voxels,), S0 / snr, dtype=torch.float64)
        self.run = Measurements(signals, sigma, acquisition)

    @property
    def tissue(self):
        """Voxels of white and grey matter."""
        return self.labels < 3


@pytest.fixture(scope="session")
def simulate():
    """Make a simulated run."""
    return Simulated
