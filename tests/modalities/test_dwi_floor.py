"""The floor in which fluid ends: noise alone is no finding, whatever raises it is sized."""

import re

import numpy as np
import pytest

from bids_gmvae.modalities.dwi_floor import NOISE_ALONE, check_floor, late_volumes

BVALS = np.repeat([0.0, 1000, 3000], [6, 30, 30])
EARLY = BVALS == 1000
SNR = 30.0


def signals(n_fluid=60, tissue=0.0, n_coils=1):
    """Magnitudes with noise of sd 1: fluid with a share of tissue, then tissue."""
    rng = np.random.default_rng(0)
    brain = np.exp(-BVALS * 0.6e-3)
    fluid = 1.8 * ((1 - tissue) * np.exp(-BVALS * 3e-3) + tissue * brain)
    clean = SNR * np.vstack([np.tile(fluid, (n_fluid, 1)), np.tile(brain, (2 * n_fluid, 1))])
    noise = rng.standard_normal((2 * n_coils, *clean.shape))
    noise[0] += clean
    return np.linalg.norm(noise, axis=0)


def check(rows):
    late = late_volumes(BVALS, EARLY, None)
    parts = rows[:, BVALS == 0], rows[:, EARLY], rows[:, late]
    return check_floor(*(part.mean(axis=1) for part in parts), parts[2].std(axis=1, ddof=1),
                       1000.0, 3000.0)  # fmt: skip


def sizes(issue):
    """Give the least and the most by which the usual signal is too high."""
    return [float(size) / 100 for size in re.findall(r"([\d.]+)%", issue.text)]


def test_nothing_is_said_where_no_b0_is_a_number():
    rows = signals()
    rows[:, 0] = np.nan
    assert check(rows) == []


def test_the_mean_of_noise_is_so_many_of_its_standard_deviations():
    noise = np.random.default_rng(0).rayleigh(size=1_000_000)
    assert pytest.approx(noise.mean() / noise.std(), rel=0.005) == NOISE_ALONE


@pytest.mark.parametrize("tissue", [0.0, 0.02, 0.04])
def test_noise_alone_is_no_finding_nor_is_a_little_tissue_in_the_fluid(tissue):
    assert check(signals(tissue=tissue)) == []


@pytest.mark.parametrize("constant", [0.5, 1.0, 2.0])
def test_a_constant_is_found_and_sized(constant):
    rows = signals() + constant
    (issue,) = check(rows)
    assert (issue.severity, issue.code) == ("warning", "noise_floor")
    assert "60 voxels at b = 3000 s/mm^2" in issue.text
    usual = np.median(rows[:, BVALS == 3000].mean(axis=1))
    assert sizes(issue)[1] == pytest.approx(constant / usual, abs=0.02)


@pytest.mark.parametrize("n_coils", [2, 4])
def test_coils_are_found_and_sized(n_coils):
    (issue,) = check(signals(n_coils=n_coils))
    one, several = (signals(n_coils=n)[60:, BVALS == 3000].mean() for n in (1, n_coils))
    assert sizes(issue)[0] == pytest.approx(several / one - 1, rel=0.2)


def test_less_noise_above_the_same_floor_is_found():
    rows = signals()
    means = [rows[:60].mean(axis=0)] * 60 + [rows[60:].mean(axis=0)] * 120
    (issue,) = check(0.5 * (rows + np.vstack(means)))
    ratio = float(re.search(r"it is ([\d.]+) times", issue.text)[1])
    assert ratio == pytest.approx(2 * NOISE_ALONE, rel=0.05)


def test_little_fluid_says_nothing():
    assert check(signals(n_fluid=19) + 1) == []


def test_tissue_that_decays_little_is_no_fluid():
    rows = SNR * np.exp(-BVALS * 0.01e-3) + np.random.default_rng(0).normal(size=(90, len(BVALS)))
    assert check(rows) == []


def test_voxels_that_are_not_finite_do_not_matter():
    rows = signals() + 1
    rows[0, 40] = np.nan
    assert "59 voxels" in check(rows)[0].text


def test_late_volumes_are_those_that_maps_use():
    assert late_volumes(BVALS, EARLY, None).sum() == 30
    assert not late_volumes(BVALS, EARLY, 2000.0).any()
    assert not late_volumes(BVALS, np.zeros_like(EARLY), None).any()
    assert not late_volumes(BVALS[:41], EARLY[:41], None).any()
    many = np.repeat([0.0, 1000, 3000], [6, 30, 160])
    assert late_volumes(many, many == 1000, None).sum() == 54
