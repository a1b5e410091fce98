"""Intravoxel incoherent motion: limits and the same equation in DIPY."""

import numpy as np
import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models.ivim import IVIM

BVALS = torch.tensor([0.0, 10, 20, 60, 150, 400, 800], dtype=torch.float64)


def test_prediction_equals_dipy():
    from dipy.core.gradients import gradient_table
    from dipy.reconst.ivim import ivim_prediction

    bvecs = np.tile([0.0, 1.0, 0.0], (len(BVALS), 1))
    bvecs[0] = 0
    gtab = gradient_table(BVALS.numpy(), bvecs=bvecs, b0_threshold=0)
    values = np.array([[0.1, 2e-2, 1.2e-3], [0.02, 1e-1, 2.9e-3], [0.4, 5e-3, 0.5e-3]])
    ours = IVIM()(torch.from_numpy(values), Acquisition(bvals=BVALS)).numpy()
    for row, expected in zip(values, ours, strict=True):
        # DIPY's order is S0, f, D*, D.
        np.testing.assert_allclose(ivim_prediction([1.0, *row], gtab), expected, rtol=1e-12)


def test_without_perfusion_the_decay_is_mono_exponential():
    values = torch.tensor([[0.0, 2e-2, 1.2e-3]], dtype=torch.float64)
    signal = IVIM()(values, Acquisition(bvals=BVALS))[0]
    torch.testing.assert_close(signal, torch.exp(-BVALS * 1.2e-3))


def test_perfusion_is_faster_than_any_diffusion():
    _, pseudo, tissue = IVIM.parameters
    assert pseudo.lower > tissue.upper


def test_shells_without_low_b_values_are_refused():
    bvals = torch.tensor([0.0, 500, 1000, 2000, 3000])
    with pytest.raises(AcquisitionError, match="two of them between 0 and 200"):
        IVIM().check(Acquisition(bvals=bvals))
