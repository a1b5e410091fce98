"""T2 and ADC: each weighting acts by itself."""

import math

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models.t2_adc import T2ADC

BVALS = torch.tensor([0.0, 0, 0, 1000, 1000, 1000], dtype=torch.float64)
ECHO_TIMES = torch.tensor([0.06, 0.09, 0.14, 0.06, 0.09, 0.14], dtype=torch.float64)
ACQUISITION = Acquisition(bvals=BVALS, echo_times=ECHO_TIMES)


def test_echo_time_and_weighting_are_separable():
    signal = T2ADC()(torch.tensor([[0.08, 1e-3]], dtype=torch.float64), ACQUISITION)[0]
    relaxed, weighted = signal[:3], signal[3:]
    torch.testing.assert_close(weighted, relaxed * math.exp(-1.0))
    torch.testing.assert_close(relaxed[2], torch.exp(torch.tensor(-0.08 / 0.08).double()))


def test_only_the_shortest_echo_without_weighting_is_unweighted():
    assert T2ADC().unweighted(ACQUISITION).tolist() == [True] + [False] * 5


def test_delaying_all_echoes_changes_nothing():
    later = Acquisition(bvals=BVALS, echo_times=ECHO_TIMES + 0.05)
    values = torch.tensor([[0.08, 1e-3]], dtype=torch.float64)
    torch.testing.assert_close(T2ADC()(values, later), T2ADC()(values, ACQUISITION))


def test_one_echo_time_is_refused():
    one = Acquisition(bvals=BVALS, echo_times=torch.full_like(BVALS, 0.1))
    with pytest.raises(AcquisitionError, match="at least two echo times, the run has 1"):
        T2ADC().check(one)


def test_missing_echo_times_are_told_in_words():
    with pytest.raises(AcquisitionError, match="needs several echo times, which the run does not"):
        T2ADC().check(Acquisition(bvals=BVALS))
