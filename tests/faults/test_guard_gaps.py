"""What nothing notices, and what it does to the maps: the list in docs/explanation/guards.md.

A test that fails here may be good news: the page then promises too little.
"""

import numpy as np
import pytest

from bids_gmvae.report.findings import findings
from tests.faults.test_wrong_science import (
    MIDDLE_SHELL,
    SIGMA,
    Scan,
    estimate,
    head,
    numbers,
    report,
)

KURTOSIS = 1


@pytest.fixture
def spoilt():
    """A sound scan, to be spoilt."""
    return Scan()


@pytest.fixture(scope="module")
def map_of(tmp_path_factory):
    """Give a function that measures and maps a scan."""

    def map_it(spoilt):
        (result,) = estimate(spoilt.measure(tmp_path_factory.mktemp("scan")))
        return result

    return map_it


@pytest.fixture(scope="module")
def truth(map_of):
    """The maps of the sound scan."""
    return map_of(Scan())


def unnoticed(result):
    return result.info["issues"] == findings(result) == []


def change(result, truth, what="mean"):
    """Give how many times the maps of a sound scan the usual voxel has, by parameter."""
    ratio = getattr(result.posterior, what) / getattr(truth.posterior, what)
    return ratio.median(dim=0).values.numpy()


def test_a_doubled_table_halves_diffusivity(spoilt, truth, map_of):
    spoilt.bvals = 2 * spoilt.bvals
    result = map_of(spoilt)
    assert unnoticed(result)
    np.testing.assert_allclose(change(result, truth), [0.5, 1], rtol=0.005)


def test_a_flipped_table_does_no_harm_to_models_without_directions(spoilt, truth, map_of):
    spoilt.bvecs[:, 1] *= -1
    assert spoilt.check(spoilt.images[spoilt.mask], spoilt.mask, directional=False) == []
    result = map_of(spoilt)
    # Only the noise level looks at directions.
    shift = (result.posterior.mean - truth.posterior.mean).abs() / truth.posterior.std
    assert shift.quantile(0.99) < 0.05
    np.testing.assert_allclose(change(result, truth, "std"), 1, rtol=0.01)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("axis", range(3))
def test_a_mask_off_by_a_voxel_of_noisy_air_is_not_noticed(spoilt, axis, shift):
    mask = np.roll(spoilt.mask, shift, axis)
    assert 0.01 < (mask & ~spoilt.mask).sum() / mask.sum() < 0.05
    assert spoilt.check(spoilt.images[mask], mask) == []


def test_two_volumes_that_lost_a_tenth_leave_maps_and_residuals(spoilt, truth, map_of):
    spoilt.images[..., spoilt.weighted(MIDDLE_SHELL)[[3, 7]]] *= 0.9
    result = map_of(spoilt)
    assert unnoticed(result)
    for what in ("mean", "std"):
        np.testing.assert_allclose(change(result, truth, what), 1, rtol=0.01)
    assert numbers(result)["residual_rms"] == pytest.approx(1, abs=0.05)


def test_a_floor_without_fluid_raises_kurtosis_and_shrinks_its_sd(spoilt, map_of):
    spoilt.mask &= head().labels != 3
    without = map_of(spoilt)
    spoilt.images += np.float32(SIGMA)
    result = map_of(spoilt)
    assert unnoticed(result)
    assert change(result, without)[KURTOSIS] == pytest.approx(1 + 1 / 8, abs=0.02)
    assert change(result, without, "std")[KURTOSIS] < 0.9


def test_a_floor_is_not_noticed_with_one_shell(spoilt):
    spoilt.images += np.float32(SIGMA)
    spoilt.keep(spoilt.bvals <= 1000)
    assert spoilt.check(spoilt.images[spoilt.mask], spoilt.mask) == []


@pytest.mark.parametrize(
    ("constant", "residuals", "shells"), [(0.3, False, False), (0.5, True, False), (1, True, True)]
)
def test_a_floor_subtracted_too_far_leaves_zeros_then_residuals(
    spoilt, map_of, constant, residuals, shells
):
    spoilt.images = np.maximum(spoilt.images - np.float32(constant * SIGMA), 0)
    result = map_of(spoilt)
    (issue,) = result.info["issues"]
    assert (issue["severity"], issue["code"]) == ("info", "zeros")
    assert ("Residuals are" in report(result)) == residuals
    assert ("does not fit the measurements at b = 3000 " in report(result)) == shells
    assert (numbers(result)["residual_b3000"] > 1.5) == shells


def test_two_noise_levels_of_one_series_are_not_noticed(spoilt, map_of):
    rng, half = np.random.default_rng(0), len(spoilt.bvals) // 2
    noise = np.sqrt(3) * SIGMA * rng.standard_normal((2, *spoilt.images[..., half:].shape))
    spoilt.images[..., half:] = np.hypot(spoilt.images[..., half:] + noise[0], noise[1])
    assert unnoticed(map_of(spoilt))


@pytest.mark.parametrize(("factor", "seen"), [(0.95, False), (0.93, True)])
def test_a_step_between_three_shells_is_seen_in_the_residuals(spoilt, map_of, factor, seen):
    spoilt.images[..., spoilt.weighted(3000)] *= factor
    result = map_of(spoilt)
    assert result.info["issues"] == []
    assert ("Residuals are" in report(result)) == seen


def test_a_step_between_two_shells_looks_like_other_tissue(spoilt, map_of):
    spoilt.keep(spoilt.bvals < 3000)
    sound = map_of(spoilt)
    spoilt.images[..., spoilt.weighted(2000)] *= 0.95
    result = map_of(spoilt)
    assert unnoticed(result)
    assert change(result, sound)[KURTOSIS] == pytest.approx(1 - 1 / 6, abs=0.02)


def test_left_and_right_exchanged_in_image_and_table_are_not_noticed(spoilt):
    spoilt.images, spoilt.mask = spoilt.images[::-1].copy(), spoilt.mask[::-1].copy()
    spoilt.bvecs[:, 0] *= -1
    assert spoilt.check(spoilt.images[spoilt.mask], spoilt.mask) == []
