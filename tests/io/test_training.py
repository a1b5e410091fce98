"""The voxels that a run leaves for a prior of many."""

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.training import TRAINING_FORMAT, read_training, to_content, write_training
from bids_gmvae.signal_models import get_signal_model


@pytest.fixture(params=["msdki", "ball_stick"])
def problem(request):
    generator = torch.Generator().manual_seed(1)
    bvals = torch.tensor([0.0] * 2 + [1000.0] * 8 + [2000.0] * 8, dtype=torch.float64)
    bvecs = torch.randn(len(bvals), 3, generator=generator, dtype=torch.float64)
    acquisition = Acquisition(bvals=bvals, bvecs=bvecs / bvecs.norm(dim=1, keepdim=True))
    signals = 100 + 10 * torch.rand(6, len(bvals), generator=generator)
    run = Measurements(signals.double(), torch.full((6,), 3.0).double(), acquisition)
    return Problem.of(run, get_signal_model(request.param), ModelSettings())


def test_they_come_back_as_they_were(problem, tmp_path):
    again = read_training(write_training(tmp_path / "voxels.pt", problem))
    assert again.signal_model.name == problem.signal_model.name
    assert again.averaged == problem.averaged
    torch.testing.assert_close(again.data, problem.data, rtol=1e-7, atol=0)
    start, before = again.start(), problem.start()
    torch.testing.assert_close(start.z, before.z, rtol=1e-5, atol=1e-5)
    linear, expected = again.linearise(start), problem.linearise(before)
    torch.testing.assert_close(
        linear.log_likelihood, expected.log_likelihood, rtol=1e-4, atol=1e-4
    )


def test_equal_voxels_give_equal_bytes(problem, tmp_path):
    one = write_training(tmp_path / "one.pt", problem).read_bytes()
    assert write_training(tmp_path / "other.pt", problem).read_bytes() == one


def test_other_files_are_refused(problem, tmp_path):
    path = write_training(tmp_path / "voxels.pt", problem)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="does not hold the voxels of a run"):
        read_training(path)
    torch.save({**to_content(problem), "format": TRAINING_FORMAT + 1}, path)
    with pytest.raises(InputError, match="has the format 2, this version reads 1"):
        read_training(path)
