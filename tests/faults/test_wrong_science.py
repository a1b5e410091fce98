"""Plausible files, wrong science: what is said of it, what the maps show, and what nobody sees.

The sizes here are those of the table in docs/explanation/guards.md; its limits are tested by
test_guard_sizes.py, and what nothing notices by test_guard_gaps.py.
"""

from dataclasses import replace
from functools import cache

import nibabel as nb
import numpy as np
import pytest
import torch

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.interfaces.estimation import fit_runs
from bids_gmvae.io.measured import MeasuredRun, noise_level
from bids_gmvae.io.qc import measures
from bids_gmvae.io.volumes import read_rows
from bids_gmvae.modalities.dwi import check_data
from bids_gmvae.report.findings import findings
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.phantom import make_phantom
from bids_gmvae.simulation.scan import scan
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import get_population
from bids_gmvae.voxels import Grid, unmask
from tests.results import make_run

SETTINGS = ModelSettings(n_components=4)
VOXEL_SIZE = 5.0
SIGMA = 1000 / 30
MIDDLE_SHELL = 2000


def bundles(mask, rng, n_lines):
    """Give each voxel the direction of the nearest of some lines: fibres go on, as in brains."""
    voxels, axes = np.argwhere(mask), rng.standard_normal((n_lines, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    offsets = voxels[:, None] - rng.uniform(0, mask.shape, (n_lines, 3))
    along = np.einsum("vlx,lx->vl", offsets, axes)
    distance = np.linalg.norm(offsets, axis=2) ** 2 - along**2
    return torch.from_numpy(axes[distance.argmin(axis=1)])


@cache
def head(n_lines=150):
    """Make a slab of a head."""
    rng = np.random.default_rng(1)
    phantom = make_phantom(get_population("msdki"), rng, voxel_size=VOXEL_SIZE, n_slices=6)
    return replace(phantom, orientation=bundles(phantom.mask, rng, n_lines))


@cache
def simulated(seed, scheme, scale, n_lines):
    """Simulate the scan of a head: its acquisition and images."""
    named, phantom = get_scheme(scheme), head(n_lines)
    acquisition = Acquisition(bvals=scale * named.bvals, bvecs=named.bvecs)
    images = scan(
        phantom,
        acquisition,
        sigma=np.full(phantom.mask.shape, SIGMA),
        generator=torch.Generator().manual_seed(seed),
        background=True,
    )
    return acquisition, images


class Scan:
    """A simulated scan that can be spoilt; ``scale`` is that of the b-values of its scheme."""

    def __init__(self, seed=0, scheme="multishell", scale=1.0, n_lines=150):
        acquisition, images = simulated(seed, scheme, scale, n_lines)
        self.bvals, self.bvecs = acquisition.bvals.clone(), acquisition.bvecs.clone()
        self.images, self.mask = images.copy(), head(n_lines).mask.copy()

    @property
    def acquisition(self):
        return Acquisition(bvals=self.bvals, bvecs=self.bvecs)

    def weighted(self, b):
        return np.flatnonzero(self.bvals.numpy() == b)

    def keep(self, volumes):
        """Leave out the other volumes."""
        self.bvals, self.bvecs = self.bvals[volumes], self.bvecs[volumes]
        self.images = self.images[..., volumes]

    def check(self, signals, mask, directional=True):
        """Give what the checks of the data say, as plain values."""
        found = check_data(
            signals,
            mask,
            self.acquisition,
            SETTINGS,
            directional=directional,
            voxel_size=[VOXEL_SIZE] * 3,
        )
        return [issue.to_dict() for issue in found]

    def measure(self, folder):
        """Do what the app does between the mask and the fit."""
        acquisition, is_b0 = self.acquisition, self.bvals.numpy() <= SETTINGS.b0_threshold
        grid = Grid(self.mask.shape, np.diag([VOXEL_SIZE] * 3 + [1.0]), 1, 1)
        rows = read_rows(self.saved(folder, grid), self.mask, is_b0, folder / "signals.f32")
        removed = unmask(~rows.supported, self.mask, fill=False)
        mask = self.mask & ~removed
        signals = np.array(rows.signals[rows.supported])
        issues = self.check(signals, mask)
        signals = torch.from_numpy(signals)
        sigma = noise_level(signals, mask, grid, acquisition, SETTINGS)
        shells = find_shells(acquisition)
        info = {
            "issues": issues,
            "shells": [
                {"b_value": float(b), "n_volumes": int(n), "is_b0": bool(zero)}
                for b, n, zero in zip(
                    shells.acquisition.bvals, shells.counts, shells.is_b0, strict=True
                )
            ],
            "frame": "image axes",
            "mask": {"source": "derivative"},
        }
        measurements = Measurements(signals, sigma, acquisition)
        return MeasuredRun(make_run(), grid, mask, removed, rows.reference, measurements, info)

    def saved(self, folder, grid):
        path = folder / "dwi.nii"
        nb.save(nb.Nifti1Image(self.images, grid.affine), path)
        return nb.load(path)


def estimate(*runs, model="msdki", estimator="lsq"):
    """Fit runs together: their results."""
    return fit_runs(
        runs,
        get_signal_model(model),
        [""] * len(runs),
        SETTINGS,
        estimator=estimator,
        device="cpu",
        progress=lambda *_: None,
    )[1]


def warnings(run):
    return [issue["code"] for issue in run.info["issues"] if issue["severity"] == "warning"]


def said(run, code):
    (issue,) = [issue for issue in run.info["issues"] if issue["code"] == code]
    return issue["text"]


def numbers(result):
    return {measure.name: measure.value for measure in measures(result)}


def report(result):
    return " ".join(finding["text"] for finding in findings(result))


@pytest.fixture
def spoilt():
    """A sound scan, to be spoilt."""
    return Scan()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The same scan as it is, measured."""
    return Scan().measure(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def truth(sound):
    """Its maps, by least squares."""
    (result,) = estimate(sound)
    return result


def test_nothing_is_said_of_sound_data(sound, truth):
    assert sound.info["issues"] == []
    assert findings(truth) == []
    assert numbers(truth)["residual_rms"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("axis", range(3))
def test_a_flipped_gradient_table_is_noticed_and_the_flip_is_named(spoilt, tmp_path, axis):
    spoilt.bvecs[:, axis] *= -1
    run = spoilt.measure(tmp_path)
    assert warnings(run) == ["gradient_frame"]
    assert said(run, "gradient_frame").endswith(f"component {'ijk'[axis]} negated.")


def test_exchanged_axes_are_noticed(spoilt, tmp_path):
    spoilt.bvecs = spoilt.bvecs[:, [1, 0, 2]]
    assert "taken in the order j, i, k" in said(spoilt.measure(tmp_path), "gradient_frame")


def test_halved_b_values_make_water_too_fast(spoilt, tmp_path):
    spoilt.bvals = 0.5 * spoilt.bvals
    run = spoilt.measure(tmp_path)
    assert warnings(run) == ["faster_than_water"]
    assert "at b = 500 s/mm^2" in said(run, "faster_than_water")
    (result,) = estimate(run, model="ball_stick")
    assert "of the voxels a parameter lies at its bound" in report(result)
    assert numbers(result)["fraction_at_bound"] > 0.1


def test_b_values_off_by_a_tenth_are_seen_by_nobody(spoilt, truth, tmp_path):
    spoilt.bvals = 1.1 * spoilt.bvals
    run = spoilt.measure(tmp_path)
    (result,) = estimate(run)
    assert run.info["issues"] == findings(result) == []
    ratio = result.posterior.mean[:, 0] / truth.posterior.mean[:, 0]
    assert ratio.median() == pytest.approx(1 / 1.1, rel=0.005)


@pytest.mark.parametrize("axis", range(2))
def test_a_mask_beside_the_head_is_noticed(spoilt, tmp_path, axis):
    spoilt.mask = np.roll(spoilt.mask, 2, axis)
    assert warnings(spoilt.measure(tmp_path)) == ["mask_dark"]


def test_a_mask_beside_a_stripped_head_is_noticed_in_the_report(spoilt, tmp_path):
    spoilt.images[~spoilt.mask] = 0
    spoilt.mask = np.roll(spoilt.mask, 1, 0)
    (result,) = estimate(spoilt.measure(tmp_path))
    assert "of the given mask holds no signal" in report(result)


@pytest.mark.parametrize("factor", [0.85, 1.2])
def test_half_a_series_from_another_scanner_is_noticed(spoilt, tmp_path, factor):
    half = len(spoilt.bvals) // 2
    spoilt.images[..., half:] *= factor
    run = spoilt.measure(tmp_path)
    assert warnings(run)[0] == "b0_brightness"
    darker = np.arange(len(spoilt.bvals)) >= half if factor < 1 else np.arange(96) < half
    for volume in np.flatnonzero(darker & (spoilt.bvals.numpy() == 0)):
        assert f" {volume} (0.8" in said(run, "b0_brightness")


def test_a_step_too_small_for_a_warning_widens_the_sd_maps(spoilt, truth, tmp_path):
    spoilt.images[..., len(spoilt.bvals) // 2 :] *= 0.93
    run = spoilt.measure(tmp_path)
    (result,) = estimate(run)
    assert warnings(run) == []
    ratio = result.posterior.std[:, 1].median() / truth.posterior.std[:, 1].median()
    assert ratio == pytest.approx(1 + 1 / 6, abs=0.02)


def test_runs_of_different_scanners_s0_give_the_same_maps(sound, tmp_path):
    darker = Scan()
    darker.images *= 0.5
    runs = sound, darker.measure(tmp_path)
    first, second = estimate(*runs, estimator="gmvae")
    ratio = second.posterior.mean / first.posterior.mean
    assert (ratio - 1).abs().max() < 1e-3
    assert second.posterior.s0.median() == pytest.approx(
        0.5 * float(first.posterior.s0.median()), rel=1e-3
    )


def test_volumes_that_lost_signal_are_named(spoilt, tmp_path):
    volumes = spoilt.weighted(MIDDLE_SHELL)[[3, 7]]
    spoilt.images[..., volumes] *= 0.75
    run = spoilt.measure(tmp_path)
    assert warnings(run) == ["volume_brightness"]
    text = said(run, "volume_brightness")
    assert [f" {volume} (0.7" in text for volume in volumes] == [True, True]


def test_slices_that_lost_signal_are_named_and_many_are_a_warning(spoilt, tmp_path):
    volumes = spoilt.weighted(MIDDLE_SHELL)
    spoilt.images[..., 2, volumes[4]] *= 0.65
    run = spoilt.measure(tmp_path)
    assert warnings(run) == []
    assert f"in volumes {volumes[4]} (counted from 0)" in said(run, "slices_lost")
    for number, volume in enumerate(volumes[:8]):
        spoilt.images[..., number % 6, volume] *= 0.65
    assert warnings(spoilt.measure(tmp_path)) == ["slices_lost"]


@pytest.mark.parametrize("constant", [0.5, 1])
def test_a_constant_as_small_as_half_the_noise_is_seen_in_the_fluid(spoilt, tmp_path, constant):
    spoilt.images += np.float32(constant * SIGMA)
    run = spoilt.measure(tmp_path)
    (result,) = estimate(run)
    assert warnings(run) == ["noise_floor"]
    assert findings(result) == []


def test_less_noise_above_the_same_floor_is_seen_in_the_fluid(spoilt, truth, tmp_path):
    # As do filters, averages of magnitudes lower the noise and leave its mean.
    spoilt.images = np.mean([Scan(seed).images for seed in range(4)], axis=0)
    run = spoilt.measure(tmp_path)
    (result,) = estimate(run)
    assert warnings(run) == ["noise_floor"]
    ratio = result.posterior.std[:, 1].median() / truth.posterior.std[:, 1].median()
    assert ratio < 0.6


def sum_of_squares(images, n_coils):
    """Add the noise of more coils, in which there is no signal."""
    channels = np.random.default_rng(0).chisquare(2 * n_coils - 2, images.shape)
    return np.sqrt(images**2 + SIGMA**2 * channels).astype(np.float32)


@pytest.mark.parametrize("n_coils", [2, 8])
def test_the_sum_of_squares_of_coils_is_seen_in_the_fluid(spoilt, tmp_path, n_coils):
    spoilt.images = sum_of_squares(spoilt.images, n_coils)
    assert warnings(spoilt.measure(tmp_path)) == ["noise_floor"]


def test_a_floor_is_seen_in_the_residuals_if_it_is_twice_the_noise(spoilt, tmp_path):
    spoilt.images += np.float32(2 * SIGMA)
    (result,) = estimate(spoilt.measure(tmp_path))
    assert report(result).startswith("Residuals are 1.3")


@pytest.mark.parametrize(("n_coils", "seen"), [(8, True), (2, False)])
def test_the_sum_of_squares_of_many_coils_is_seen_in_the_residuals(
    spoilt, tmp_path, n_coils, seen
):
    spoilt.images = sum_of_squares(spoilt.images, n_coils)
    (result,) = estimate(spoilt.measure(tmp_path))
    assert ("Residuals are" in report(result)) == seen
