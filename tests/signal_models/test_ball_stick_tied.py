"""The tied ball and stick is the free one with equal diffusivities."""

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models.ball_stick import BallStick
from bids_gmvae.signal_models.ball_stick_tied import BallStickTied

X = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)


@pytest.fixture
def acquisition():
    bvecs = torch.randn(31, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bvecs = bvecs / bvecs.norm(dim=1, keepdim=True)
    bvecs[0] = 0
    bvals = torch.tensor([0.0, *[1000] * 30], dtype=torch.float64)
    return Acquisition(bvals=bvals, bvecs=bvecs)


def test_it_equals_ball_and_stick_with_equal_diffusivities(acquisition):
    tied = torch.tensor([[0.5, 1.3e-3]], dtype=torch.float64)
    free = torch.tensor([[0.5, 1.3e-3, 1.3e-3]], dtype=torch.float64)
    torch.testing.assert_close(
        BallStickTied()(tied, acquisition, X), BallStick()(free, acquisition, X)
    )
    (ours,) = BallStickTied().derived(tied).values()
    (theirs,) = BallStick().derived(free).values()
    torch.testing.assert_close(ours, theirs)


def test_it_accepts_one_shell(acquisition):
    BallStickTied().check(acquisition)


def test_it_refuses_five_directions(acquisition):
    with pytest.raises(AcquisitionError, match="needs 6 gradient directions, the run has 5"):
        BallStickTied().check(acquisition.select(torch.arange(6)))
