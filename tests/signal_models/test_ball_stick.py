"""Ball and stick: limits and symmetries."""

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models.ball_stick import BallStick

X = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)


def directions(n, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True)


@pytest.fixture
def acquisition():
    bvals = torch.tensor([0.0, *[1000] * 20, *[2500] * 20], dtype=torch.float64)
    bvecs = directions(41, seed=0)
    bvecs[0] = 0
    return Acquisition(bvals=bvals, bvecs=bvecs)


def values(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def test_without_a_stick_it_is_a_ball(acquisition):
    signal = BallStick()(values(0.0, 1.8e-3, 1.1e-3), acquisition, X)
    torch.testing.assert_close(signal[0], torch.exp(-acquisition.bvals * 1.1e-3))


def test_a_stick_decays_along_the_fibre_only(acquisition):
    bvals = acquisition.bvals
    along = Acquisition(bvals=bvals, bvecs=X.expand(len(bvals), 3))
    across = Acquisition(bvals=bvals, bvecs=X.roll(1, dims=1).expand(len(bvals), 3))
    stick = values(1.0, 1.8e-3, 1.1e-3)
    torch.testing.assert_close(BallStick()(stick, along, X)[0], torch.exp(-bvals * 1.8e-3))
    torch.testing.assert_close(BallStick()(stick, across, X)[0], torch.ones_like(bvals))


def test_turning_fibre_and_gradients_together_changes_nothing(acquisition):
    rotation, _ = torch.linalg.qr(directions(3, seed=1))
    fibres = directions(10, seed=2)
    tissue = values(0.6, 1.8e-3, 1.1e-3).expand(10, 3)
    turned = Acquisition(bvals=acquisition.bvals, bvecs=acquisition.bvecs @ rotation.T)
    torch.testing.assert_close(
        BallStick()(tissue, turned, fibres @ rotation.T),
        BallStick()(tissue, acquisition, fibres),
    )


def test_a_fibre_has_no_sign(acquisition):
    tissue = values(0.6, 1.8e-3, 1.1e-3)
    torch.testing.assert_close(
        BallStick()(tissue, acquisition, -X), BallStick()(tissue, acquisition, X)
    )


def test_the_powder_average_is_the_error_function():
    b, diffusivity = 2500.0, 1.8e-3
    n = 2000
    # Equal-area bands of the sphere, one direction in each.
    height = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1
    bvecs = torch.stack([height, (1 - height**2).sqrt(), torch.zeros(n).double()], dim=1)
    acquisition = Acquisition(bvals=torch.full((n,), b, dtype=torch.float64), bvecs=bvecs)
    mean = BallStick()(values(1.0, diffusivity, 1e-3), acquisition, X).mean()
    argument = torch.tensor(b * diffusivity, dtype=torch.float64)
    expected = torch.sqrt(torch.pi / (4 * argument)) * torch.erf(argument.sqrt())
    torch.testing.assert_close(mean, expected, rtol=1e-6, atol=0)


def test_mean_diffusivity_is_the_initial_slope_of_the_powder_average(acquisition):
    tissue = values(0.6, 1.8e-3, 1.1e-3)
    ((parameter, derived),) = BallStick().derived(tissue).items()
    small = 1e-4
    axes = torch.eye(3, dtype=torch.float64)
    weak = Acquisition(bvals=torch.full((3,), small, dtype=torch.float64), bvecs=axes)
    slope = (1 - BallStick()(tissue, weak, directions(1, seed=3)).mean()) / small
    assert parameter.name == "mean_diffusivity"
    assert float(derived) == pytest.approx(float(slope), rel=1e-5)


def test_one_shell_is_refused_and_the_tied_model_proposed(acquisition):
    with pytest.raises(AcquisitionError, match="ball_stick_tied"):
        BallStick().check(acquisition.select(acquisition.bvals < 2000))


def test_too_few_directions_are_counted():
    few = Acquisition(
        bvals=torch.tensor([0.0, 1000, 1000, 1000, 2000]),
        bvecs=torch.tensor([[0.0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    )
    with pytest.raises(AcquisitionError, match="needs 6 gradient directions, the run has 3"):
        BallStick().check(few)
