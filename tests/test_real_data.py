"""What holds on a real scan, where nobody knows the truth."""

import statistics

import numpy as np
import pytest
import torch

from benchmarks import real
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.noise import residual_variance

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def measured(real_data):
    """The slice with 15 shells."""
    return real.load()


@pytest.fixture(scope="module")
def halves():
    """Between-half figures of MS-DKI, by (method, parameter, quantity)."""
    records = real.compare_halves("msdki", real.FOUR_SHELLS, seed=0)
    return {(row["method"], row["of"], row["quantity"]): row["value"] for row in records}


@pytest.mark.parametrize("parameter", ["D", "K"])
def test_halves_of_a_scan_agree_better_than_voxelwise_fits(halves, parameter):
    for quantity in ("WM CoV %", "GM CoV %", "WM rms CoV %", "GM rms CoV %"):
        gmvae, lsq = (halves[method, parameter, quantity] for method in ("gmvae", "lsq"))
        assert gmvae < lsq, quantity


@pytest.mark.parametrize("parameter", ["D", "K"])
def test_grey_and_white_matter_stay_as_different(halves, parameter):
    difference = [halves[method, parameter, "WM - GM"] for method in ("gmvae", "lsq")]
    assert difference[0] / difference[1] == pytest.approx(1, abs=0.05)
    contrast = [abs(halves[method, parameter, "contrast"]) for method in ("gmvae", "lsq")]
    assert contrast[0] > contrast[1]


def test_residuals_are_as_large_as_the_noise_where_the_model_holds():
    records = real.measure_residuals("msdki", "b 1000-3000", seed=0)
    by_shell = [row["value"] for row in records if row["method"] == "gmvae"]
    assert statistics.median(by_shell) == pytest.approx(1, abs=0.1)
    assert max(by_shell) < 1.25


def test_noise_is_highest_in_the_centre_of_the_head(measured):
    everything = torch.ones(len(measured.run.acquisition), dtype=torch.bool)
    sigma = measured.volumes(everything).sigma
    relative = sigma / measured.run.signals[:, 0].median()
    place = torch.from_numpy(np.argwhere(measured.mask)[:, :2]).double()
    radius = (place - place.mean(dim=0)).norm(dim=1)
    assert relative.quantile(0.01).item() == pytest.approx(0.022, abs=0.003)
    assert relative.quantile(0.99).item() == pytest.approx(0.063, abs=0.005)
    assert relative[radius < 8].median() > 2 * relative[radius > 24].median()


def test_half_of_the_directions_finds_the_same_noise(measured):
    first = real.half_of_directions(measured.run, seed=0)
    levels = [measured.volumes(part).sigma for part in (first, ~first)]
    ratio = levels[0] / levels[1]
    assert ratio.median().item() == pytest.approx(1, abs=0.02)
    assert ratio.quantile(0.95) < 1.06


def test_shells_agree_on_the_noise(measured):
    everything = torch.ones(len(measured.run.acquisition), dtype=torch.bool)
    run = measured.volumes(everything)
    variance = residual_variance(run.signals, run.acquisition, ModelSettings()).variance
    by_shell = (variance / run.sigma[:, None] ** 2)[~measured.tissue["CSF"]].median(dim=0).values
    assert ((by_shell.sqrt() - 1).abs() < 0.1).all()
