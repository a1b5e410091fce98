"""Volumes and slices that are darker than their like are named, directions are not blamed."""

import re

import numpy as np
import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.modalities.dwi_brightness import check_brightness
from bids_gmvae.modalities.dwi_labels import check_labels
from tests.bids_tree import directions

BVALS = np.array([*[0] * 6, *[1000] * 30, *[2000] * 30])
SIZES = np.array([400, 400, 400, 20])


def check(means, slice_means=None, bvals=BVALS, bvecs=None, usable=None):
    bvecs = directions(len(bvals)) if bvecs is None else bvecs
    acquisition = Acquisition(
        bvals=torch.tensor(bvals, dtype=torch.float64), bvecs=torch.from_numpy(bvecs)
    )
    if slice_means is None:
        slice_means = np.tile(means, (len(SIZES), 1))
    usable = np.ones(len(bvals), dtype=bool) if usable is None else usable
    return check_brightness(means, slice_means, SIZES, usable, acquisition, ModelSettings())


def named(issue):
    """Give the volumes that a finding names, and their factors."""
    found = re.findall(r"(\d+) \(([\d.]+)\)", issue.text)
    return {int(volume): float(factor) for volume, factor in found}


@pytest.fixture
def means():
    """A brain with one dominant fibre: directions differ by a factor of two."""
    along = (directions(len(BVALS)) @ [0.6, 0.0, 0.8]) ** 2
    noise = np.random.default_rng(0).normal(0, 0.01, len(BVALS))
    return 1000 * np.exp(-BVALS * (0.6e-3 + 0.35e-3 * along) + noise)


@pytest.mark.parametrize("lost", [BVALS == 0, BVALS > 0, BVALS == 2000, np.arange(66) == 8])
def test_volumes_without_signal_are_left_out(means, lost):
    means[lost] = np.nan
    assert check(means, usable=~lost) == []


def test_directions_alone_are_no_finding(means):
    shell = means[BVALS == 2000]
    assert shell.max() > 1.7 * shell.min()
    assert check(means) == []


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_single_volume_that_is_off_is_named_with_its_factor(means, factor):
    means[[3, 40]] *= factor
    b0, weighted = check(means)
    assert (b0.severity, b0.code) == ("warning", "b0_brightness")
    assert named(b0) == {3: pytest.approx(factor, rel=0.03)}
    assert (weighted.severity, weighted.code) == ("warning", "volume_brightness")
    assert named(weighted) == {40: pytest.approx(factor, rel=0.05)}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_directions", [10, 30])
def test_coherent_fibres_are_no_finding_however_dark_a_direction_is(seed, n_directions):
    bvals = np.repeat([0, 1000, 2000, 3000], [6, n_directions, n_directions, n_directions])
    rng = np.random.default_rng(seed)
    fibres = rng.normal([0, 0, 2], 1, (3, 3))
    fibres /= np.linalg.norm(fibres, axis=1, keepdims=True)
    along = (directions(len(bvals)) @ fibres.T) ** 2
    means = np.exp(-bvals[:, None] * (0.3e-3 + 1.5e-3 * along)) @ [500, 300, 200] + 30
    shell = means[bvals == 3000]
    assert shell.max() > 2 * shell.min()
    assert check(means, bvals=bvals) == []
    acquisition = Acquisition(
        bvals=torch.tensor(bvals, dtype=torch.float64),
        bvecs=torch.from_numpy(directions(len(bvals))),
    )
    assert check_labels(means, acquisition, means > 0, ModelSettings()) == []


def test_what_scanners_drift_by_is_no_finding(means):
    assert check(means * np.linspace(1, 0.93, len(means))) == []


def test_of_two_equal_groups_of_b0_images_the_darker_is_named(means):
    means[:3] *= 0.8
    (issue,) = check(means)
    assert named(issue) == dict.fromkeys(range(3), pytest.approx(0.8, rel=0.03))


def test_too_few_volumes_say_nothing(means):
    means = np.array([1000.0, 500, 400, 250, 420])
    assert check(means, bvals=np.array([0, *[1000] * 4])) == []


def test_lost_slices_are_counted_unless_they_are_small_or_the_volume_is_dark(means):
    slices = np.tile(means, (len(SIZES), 1))
    slices[1, 50] *= 0.6
    slices[3, 51] *= 0.1
    (issue,) = check(means, slices)
    assert (issue.severity, issue.code) == ("info", "slices_lost")
    assert issue.text.startswith(f"1 of {3 * len(BVALS)} slices")
    assert "in volumes 50 (" in issue.text
    slices[2, 50:54] *= 0.6
    (issue,) = check(means, slices)
    assert issue.severity == "warning"
    slices = np.tile(means, (len(SIZES), 1))
    slices[:, 50] *= 0.6
    means[50] *= 0.6
    assert [issue.code for issue in check(means, slices)] == ["volume_brightness"]
