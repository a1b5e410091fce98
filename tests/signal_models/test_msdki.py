"""Mean signal kurtosis: identities and the same equation in DIPY."""

import numpy as np
import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models.msdki import MSDKI

BVALS = torch.tensor([0.0, 500, 1000, 2000, 3000], dtype=torch.float64)


def signal(diffusivity, kurtosis, bvals=BVALS):
    values = torch.tensor([[diffusivity, kurtosis]], dtype=torch.float64)
    return MSDKI()(values, Acquisition(bvals=bvals))[0]


def test_without_kurtosis_the_decay_is_mono_exponential():
    torch.testing.assert_close(signal(1.3e-3, 0.0), torch.exp(-BVALS * 1.3e-3))


def test_the_initial_slope_is_the_diffusivity_whatever_the_kurtosis():
    b = torch.tensor([0.0, 1e-3], dtype=torch.float64)
    decay = -torch.log(signal(0.8e-3, 1.2, torch.cat([b, BVALS]))[1]) / b[1]
    assert float(decay) == pytest.approx(0.8e-3, rel=1e-5)


def test_prediction_equals_dipy():
    from dipy.core.gradients import gradient_table
    from dipy.reconst.msdki import msdki_prediction

    bvecs = np.tile([1.0, 0.0, 0.0], (len(BVALS), 1))
    bvecs[0] = 0
    gtab = gradient_table(BVALS.numpy(), bvecs=bvecs)
    values = np.array([[0.9e-3, 1.0], [1.0e-3, 0.6], [1.5e-3, 1.0], [3.0e-3, 0.0]])
    # DIPY takes mm^2/s and s/mm^2 too, and does not limit K: all values here decay to b_max.
    expected = msdki_prediction(values, gtab, S0=1.0)
    ours = MSDKI()(torch.from_numpy(values), Acquisition(bvals=BVALS))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def test_kurtosis_beyond_its_limit_keeps_the_last_signal_at_1():
    limited = signal(4e-3, 3.0)
    assert float(limited[-1]) == pytest.approx(1.0)
    torch.testing.assert_close(limited, signal(4e-3, 6 / (3000 * 4e-3)))


def test_one_shell_is_refused_with_its_b_value():
    with pytest.raises(AcquisitionError, match="two shells with b > 0, the run has: 1000"):
        MSDKI().check(Acquisition(bvals=torch.tensor([0.0, 990.0, 1010.0])))


def test_the_guess_is_exact_without_noise_and_stays_within_the_limit_with_it():
    model = MSDKI()
    bvals = torch.tensor([0.0, 1000.0, 2000.0, 3000.0], dtype=torch.float64)
    acquisition = Acquisition(bvals=bvals)
    values = torch.tensor([[0.9e-3, 1.0], [1.0e-3, 0.6], [2.0e-3, 0.1]], dtype=torch.float64)
    counts = torch.tensor([2.0, 10.0, 10.0, 10.0], dtype=torch.float64)
    guess = model.guess(500 * model(values, acquisition), counts, acquisition)
    torch.testing.assert_close(guess, values, rtol=1e-6, atol=0)
    noise = torch.rand(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    diffusivity, kurtosis = model.guess(noise + 0.01, counts, acquisition).unbind(-1)
    assert (kurtosis < 6 / (3000 * diffusivity)).all()
