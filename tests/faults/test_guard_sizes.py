"""From which size on guards notice: each limit of docs/explanation/guards.md, from both sides."""

import numpy as np
import pytest

from bids_gmvae.config import ModelSettings, RunSettings
from bids_gmvae.modalities.dwi import check, find_runs
from tests.bids_tree import raw_dataset, series, write_tree
from tests.faults.test_wrong_science import (
    MIDDLE_SHELL,
    SIGMA,
    Scan,
    estimate,
    head,
    numbers,
    report,
    sum_of_squares,
)

HIGHEST_SHELL = 3000


def told(spoilt, mask=None):
    """Give severity and code of what the checks say."""
    mask = spoilt.mask if mask is None else mask
    found = spoilt.check(spoilt.images[mask], mask)
    return [f"{issue['severity']} {issue['code']}" for issue in found]


def fluid_kept(n_voxels):
    """Give the mask with so many voxels of fluid, the purest."""
    phantom = head()
    fluid = np.argwhere(phantom.labels == 3)
    purest = fluid[np.argsort(-phantom.purity[tuple(fluid.T)])]
    mask = phantom.mask.copy()
    mask[tuple(purest[n_voxels:].T)] = False
    return mask


def with_air(mask, share):
    """Add voxels of air to a mask, until they are a share of it."""
    air = np.random.default_rng(0).permutation(np.argwhere(~mask))
    larger = mask.copy()
    larger[tuple(air[: round(share / (1 - share) * mask.sum())].T)] = True
    return larger


@pytest.fixture
def spoilt():
    """A sound scan, to be spoilt."""
    return Scan()


# Gradient table


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("n_voxels", "seen"), [(400, False), (1700, True)])
def test_flips_need_coherent_voxels(spoilt, n_voxels, seen, axis):
    # Two of three are anisotropic.
    voxels = np.argwhere(spoilt.mask)
    distance = np.abs(voxels - [16, 20, 3]).max(axis=1)
    mask = np.zeros_like(spoilt.mask)
    mask[tuple(voxels[np.argsort(distance, kind="stable")[:n_voxels]].T)] = True
    spoilt.bvecs[:, axis] *= -1
    assert told(spoilt, mask) == ["warning gradient_frame"] * seen


# b-values


@pytest.mark.parametrize(("factor", "seen"), [(0.6, True), (0.75, False)])
def test_b_values_that_are_too_small_are_seen_in_the_fluid(spoilt, factor, seen):
    spoilt.bvals = factor * spoilt.bvals
    assert told(spoilt) == ["warning faster_than_water"] * seen
    assert told(spoilt, fluid_kept(0)) == []


def test_b_values_that_are_too_small_are_not_seen_without_a_low_shell(spoilt):
    spoilt.keep(np.isin(spoilt.bvals, [0, HIGHEST_SHELL]))
    spoilt.bvals = 0.55 * spoilt.bvals
    assert told(spoilt) == []


@pytest.mark.parametrize(("factor", "seen"), [(0.5, True), (0.6, False)])
def test_b_values_near_half_drive_ball_stick_to_its_bounds(spoilt, tmp_path, factor, seen):
    spoilt.bvals = factor * spoilt.bvals
    (result,) = estimate(spoilt.measure(tmp_path), model="ball_stick")
    assert ("of the voxels a parameter lies at its bound" in report(result)) == seen
    assert (numbers(result)["fraction_at_bound"] > 0.1) == seen


@pytest.mark.parametrize(
    ("factor", "seen"), [(1e-3, True), (0.1, False), (100, False), (1e6, True)]
)
def test_b_values_in_other_units_are_an_error(tmp_path, factor, seen):
    bvals = [factor * b for b in (0, *[1000] * 6, *[3000] * 6)]
    write_tree(tmp_path / "bids", raw_dataset() | series("sub-01/dwi/sub-01", bvals))
    (run,), _ = find_runs(RunSettings(tmp_path / "bids", tmp_path / "out", "participant"))
    codes = [issue.code for issue in check(run, ModelSettings()).issues]
    assert ("bvals_scaled" in codes) == seen


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [
        (0, 1000, "bvals_contradict_signal"),
        (0, 3000, "bvals_contradict_signal"),
        (1000, 2000, "bvals_contradict_signal"),
        (2000, 3000, "volume_brightness"),
    ],
)
def test_the_b_values_of_two_volumes_exchanged_are_noticed(spoilt, low, high, code):
    pair = [spoilt.weighted(low)[2], spoilt.weighted(high)[2]]
    spoilt.bvals[pair] = spoilt.bvals[pair[::-1]]
    assert told(spoilt) == [f"warning {code}"]


@pytest.mark.parametrize(
    ("b", "instead", "code"),
    [
        (1000, 0, "b0_brightness"),
        (0, 1000, "bvals_contradict_signal"),
        (2000, 1000, "bvals_contradict_signal"),
        (3000, 2000, "volume_brightness"),
    ],
)
def test_the_b_value_of_one_volume_is_noticed(spoilt, b, instead, code):
    spoilt.bvals[spoilt.weighted(b)[2]] = instead
    assert told(spoilt) == [f"warning {code}"]


# Mask


@pytest.mark.parametrize(("share", "seen"), [(0.055, True), (0.045, False)])
def test_a_twentieth_of_air_that_holds_noise_is_noticed(spoilt, share, seen):
    spoilt.mask = with_air(spoilt.mask, share)
    assert told(spoilt) == ["warning mask_dark"] * seen


@pytest.mark.parametrize(("share", "seen"), [(0.022, True), (0.018, False)])
def test_a_fiftieth_of_air_that_is_zero_is_noticed_in_the_report(spoilt, tmp_path, share, seen):
    spoilt.images[~spoilt.mask] = 0
    spoilt.mask = with_air(spoilt.mask, share)
    (result,) = estimate(spoilt.measure(tmp_path))
    assert ("of the given mask holds no signal" in report(result)) == seen


# Brightness


@pytest.mark.parametrize(
    ("factor", "seen"), [(0.9, True), (0.91, False), (1.12, True), (1.1, False)]
)
def test_steps_are_seen_from_a_tenth_below_the_brighter_part_on(spoilt, factor, seen):
    spoilt.images[..., len(spoilt.bvals) // 2 :] *= factor
    assert told(spoilt) == ["warning b0_brightness"] * seen


@pytest.mark.parametrize("b", [1000, 2000, 3000])
@pytest.mark.parametrize(
    ("factor", "code"),
    [
        (0.7, "bvals_contradict_signal"),
        (0.8, "volume_brightness"),
        (0.88, ""),
        (1.14, ""),
        (1.25, "volume_brightness"),
    ],
)
def test_single_volumes_are_seen_from_a_fifth_on(spoilt, factor, code, b):
    spoilt.images[..., spoilt.weighted(b)[3]] *= factor
    assert told(spoilt) == ([f"warning {code}"] if code else [])


@pytest.mark.parametrize("b", [1000, 2000, 3000])
def test_most_single_volumes_are_seen_from_15_percent_on(spoilt, b):
    seen = []
    for volume in spoilt.weighted(b)[:10]:
        other = Scan()
        other.images[..., volume] *= 0.85
        seen += told(other)
    assert seen.count("warning volume_brightness") == len(seen) > 5


@pytest.mark.parametrize(("n_volumes", "seen"), [(6, False), (7, True)])
def test_few_volumes_of_a_shell_tell_nothing_of_each_other(spoilt, n_volumes, seen):
    highest = spoilt.weighted(HIGHEST_SHELL)
    spoilt.images[..., highest[1]] *= 0.5
    rest = np.flatnonzero(spoilt.bvals < HIGHEST_SHELL)
    spoilt.keep(np.sort([*rest, *highest[:n_volumes]]))
    assert told(spoilt) == ["warning volume_brightness"] * seen


@pytest.mark.parametrize("number", [0, 5])
def test_ten_directions_through_coherent_fibres_may_hide_a_lost_half(number):
    short = Scan(scheme="short", n_lines=1)
    assert told(short) == []
    short.images[..., short.weighted(HIGHEST_SHELL)[number]] *= 0.5
    assert told(short) == []


@pytest.mark.parametrize("b", [1000, 2000, 3000])
@pytest.mark.parametrize(("factor", "seen"), [(0.6, True), (0.75, False)])
def test_slices_are_seen_that_lost_more_than_their_volume(spoilt, factor, seen, b):
    spoilt.images[..., 2, spoilt.weighted(b)[4]] *= factor
    assert told(spoilt) == ["info slices_lost"] * seen


@pytest.mark.parametrize(("n_voxels", "seen"), [(100, True), (99, False)])
def test_parts_of_slices_with_less_than_a_hundred_voxels_say_nothing(spoilt, n_voxels, seen):
    spoilt.mask[np.cumsum(spoilt.mask[..., 0]).reshape(spoilt.mask.shape[:2]) > n_voxels, 0] = 0
    spoilt.images[..., 0, spoilt.weighted(MIDDLE_SHELL)[4]] *= 0.6
    assert told(spoilt) == ["info slices_lost"] * seen


@pytest.mark.parametrize(("n_lost", "severity"), [(5, "info"), (6, "warning")])
def test_more_than_a_hundredth_of_all_slices_is_a_warning(spoilt, n_lost, severity):
    for number, volume in enumerate(spoilt.weighted(MIDDLE_SHELL)[4 : 4 + n_lost]):
        spoilt.images[..., number % 6, volume] *= 0.6
    assert told(spoilt) == [f"{severity} slices_lost"]


# Noise


@pytest.mark.parametrize(("constant", "severity"), [(0.5, "warning"), (0.25, "info"), (0.2, "")])
def test_a_constant_is_seen_from_a_quarter_of_the_noise_on(spoilt, constant, severity):
    spoilt.images += np.float32(constant * SIGMA)
    assert told(spoilt) == ([f"{severity} noise_floor"] if severity else [])


@pytest.mark.parametrize(("n_voxels", "seen"), [(20, True), (15, False)])
def test_a_constant_needs_fluid_to_be_seen(spoilt, n_voxels, seen):
    spoilt.images += np.float32(SIGMA)
    assert told(spoilt, fluid_kept(n_voxels)) == ["warning noise_floor"] * seen


@pytest.mark.parametrize(("scale", "seen"), [(0.65, True), (0.6, False)])
def test_a_constant_needs_high_b_values_to_be_seen(scale, seen):
    two_shells = Scan(scheme="twoshell", scale=scale)  # up to b = 1300 and 1200
    two_shells.images += np.float32(SIGMA)
    assert told(two_shells) == ["warning noise_floor"] * seen


def test_a_constant_needs_a_low_shell_to_be_seen(spoilt):
    spoilt.images += np.float32(SIGMA)
    spoilt.keep(spoilt.bvals != 1000)
    assert told(spoilt) == []


@pytest.mark.parametrize(("share", "said"), [(0.25, ["info noise_floor"]), (0.1, [])])
def test_noise_is_seen_that_was_lowered_by_a_fifth(spoilt, share, said):
    # Averaged, noise is lowered to 0.79 and to 0.91.
    spoilt.images = (1 - share) * spoilt.images + share * Scan(1).images
    assert told(spoilt) == said


@pytest.mark.parametrize(("constant", "seen"), [(1.75, True), (1.5, False)])
def test_residuals_are_a_warning_from_a_quarter_above_the_noise_on(
    spoilt, tmp_path, constant, seen
):
    spoilt.images += np.float32(constant * SIGMA)
    (result,) = estimate(spoilt.measure(tmp_path))
    assert ("Residuals are" in report(result)) == seen
    assert (numbers(result)["residual_rms"] > 1.25) == seen


def test_the_sum_of_squares_of_four_coils_is_not_seen_in_the_residuals(spoilt, tmp_path):
    spoilt.images = sum_of_squares(spoilt.images, 4)
    (result,) = estimate(spoilt.measure(tmp_path))
    assert report(result) == ""
