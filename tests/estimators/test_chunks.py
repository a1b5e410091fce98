"""Chunks: the same result however the work is cut, shared out, or short of memory."""

import logging

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import chunks, get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.signal_models import get_signal_model


@pytest.fixture
def run():
    generator = torch.Generator().manual_seed(0)
    signals = 1 + torch.rand(1000, 4, generator=generator)
    acquisition = Acquisition(bvals=torch.tensor([0.0, 1000.0, 2000.0, 3000.0]))
    return Measurements(signals, torch.full((1000,), 0.1), acquisition)


def echo(run, usable, generator=None):
    """Give the first two signals as estimates, and random numbers as residual."""
    mean = run.signals[:, :2].clone()
    chance = torch.zeros(len(run)) if generator is None else torch.rand(
        len(run), generator=generator
    )  # fmt: skip
    return ParameterPosterior(
        get_signal_model("msdki"), mean, mean, usable.to(torch.uint8), mean[:, 0], chance, mean
    )


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", 4 * 300)


@pytest.fixture
def threads():
    """Set the number of threads; it is what it was afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_chunks_come_back_in_the_order_of_the_voxels(run, small_chunks, threads):
    threads(3)
    posterior = chunks.in_chunks(echo, run, device="cpu")
    assert torch.equal(posterior.mean, run.signals[:, :2].double())


@pytest.mark.parametrize("compiled", [True, False])
def test_the_number_of_threads_changes_no_bit(simulate, monkeypatch, threads, compiled):
    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", 1)
    if not compiled:
        monkeypatch.setattr(Problem, "is_compiled", False)
    data = simulate("msdki", 600, 20)
    fit = get_estimator("lsq")(data.signal_model, ModelSettings()).fit(data.run)
    results = []
    for n in (1, 3):
        threads(n)
        results.append(fit.posterior(data.run).tensors())
    for name, tensor in results[0].items():
        assert torch.equal(tensor.nan_to_num(-1), results[1][name].nan_to_num(-1)), name


def test_random_numbers_differ_between_chunks_but_not_between_runs(run, small_chunks, threads):
    results = []
    for n in (1, 3):
        threads(n)
        results.append(chunks.in_chunks(echo, run, device="cpu", seed=5).residual)
    assert torch.equal(*results)
    assert not torch.equal(results[0][:300], results[0][300:600])


def test_threads_are_left_as_they_were(run, small_chunks, threads):
    threads(2)
    chunks.in_chunks(echo, run, device="cpu")
    assert torch.get_num_threads() == 2


def test_half_as_many_voxels_are_tried_when_memory_is_short(run, caplog):
    sizes = []

    def hungry(run, usable):
        sizes.append(len(run))
        if len(run) > 200:
            raise torch.OutOfMemoryError
        return echo(run, usable)

    with caplog.at_level(logging.WARNING):
        posterior = chunks.in_chunks(hungry, run, device="cpu")
    assert torch.equal(posterior.mean, run.signals[:, :2].double())
    assert sizes == [1000, 500, 250, 125, 125, 125, 125, 125, 125, 125, 125]
    assert "125 voxels at a time" in caplog.text


def test_a_voxel_too_large_for_memory_is_an_error(run):
    def starved(run, usable):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        chunks.in_chunks(starved, run, device="cpu")


def test_voxels_that_cannot_be_fitted_do_not_disturb_the_others(run):
    run.signals[3] = torch.nan
    run.signals[7, 2] = torch.inf
    posterior = chunks.in_chunks(echo, run, device="cpu")
    assert posterior.status.sum() == 998
