"""Masks: where they come from, and what is taken away from them."""

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.images import read_data
from bids_gmvae.masking import check_grid, compute_mask, read_mask, signal_support
from bids_gmvae.modalities.dwi import find_runs, read_acquisition
from bids_gmvae.voxels import Grid

SHAPE = (8, 7, 6)
AFFINE = np.array([[-2, 0.1, 0, 9], [0.1, 2, 0.2, 5], [0, -0.2, 2, 3], [0, 0, 0, 1]], dtype=float)
GRID = Grid(SHAPE, AFFINE, 1, 1)
IS_B0 = np.array([True, False, False])


@pytest.fixture
def data():
    return np.full((*SHAPE, 3), 100, dtype=np.int16)


@pytest.fixture
def save(tmp_path):
    def write(values, name="mask.nii.gz", affine=AFFINE):
        path = tmp_path / name
        nb.save(nb.Nifti1Image(values, affine), path)
        return path

    return write


def box(low=2, high=5):
    mask = np.zeros(SHAPE, dtype="u1")
    mask[low:high, low:high, low:high] = 1
    return mask


def test_a_given_mask_comes_before_that_of_the_derivative(data, save):
    given, derivative = save(box(2, 4), "given.nii.gz"), save(box(), "derivative.nii.gz")
    both = compute_mask(data, IS_B0, GRID, given=given, derivative=derivative)
    assert (both.source, both.path, both.counts) == (
        "given",
        given,
        {"given": 8, "removed": 0, "kept": 8},
    )
    one = compute_mask(data, IS_B0, GRID, given=None, derivative=derivative)
    assert (one.source, one.path) == ("derivative", derivative)
    np.testing.assert_array_equal(one.mask, box().astype(bool))
    assert not one.removed.any()


def test_without_a_mask_the_bright_part_of_the_b0_image_is_taken(data):
    shape = (30, 30, 12)
    centre = np.stack(np.indices(shape), -1) - [15, 15, 6]
    ball = (np.linalg.norm(centre * [1, 1, 2], axis=-1)) < 10
    noise = np.random.default_rng(0).rayleigh(5, (*shape, 3))
    mask = compute_mask(
        ball[..., None] * 200 + noise,
        IS_B0,
        Grid(shape, AFFINE, 1, 1),
        given=None,
        derivative=None,
    )
    assert mask.source == "median_otsu"
    assert mask.path is None
    overlap = 2 * (mask.mask & ball).sum() / (mask.mask.sum() + ball.sum())
    assert overlap > 0.9


def test_holes_of_a_computed_mask_are_filled():
    shape = (30, 30, 12)
    volume = np.zeros((*shape, 3))
    volume[5:25, 5:25, 2:10] = 200
    volume[13:17, 13:17, 5:7] = 1
    mask = compute_mask(volume, IS_B0, Grid(shape, AFFINE, 1, 1)).mask
    assert mask[14, 14, 5]


def test_voxels_without_b0_signal_or_without_any_signal_are_removed(data, save):
    path = save(np.ones(SHAPE, "u1"))
    data = data.astype("f4")
    data[0, 0, 0, 0] = 0
    data[1, 0, 0] = 0
    data[2, 0, 0] = np.nan
    mask = compute_mask(data, IS_B0, GRID, derivative=path)
    assert np.argwhere(mask.removed).tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert not (mask.removed & mask.mask).any()
    n_voxels = int(np.prod(SHAPE))
    assert mask.counts == {"given": n_voxels, "removed": 3, "kept": n_voxels - 3}


def test_zeros_in_weighted_volumes_are_data(data):
    data[..., 1:] = 0
    assert signal_support(data[..., 0], data).all()


def test_a_volume_that_is_not_finite_takes_no_voxel_away(data):
    data = data.astype("f4")
    data[..., 2] = np.nan
    assert signal_support(data[..., 0], data).all()


def test_float_masks_are_cut_at_one_half_and_may_have_a_fourth_axis(data, save):
    values = np.zeros(SHAPE, "f4")
    values[0], values[1] = 0.4, 0.6
    expected = np.zeros(SHAPE, dtype=bool)
    expected[1] = True
    np.testing.assert_array_equal(read_mask(save(values), GRID), expected)
    np.testing.assert_array_equal(read_mask(save(values[..., None]), GRID), expected)


def test_affines_may_differ_by_rounding_only(save):
    check_grid(save(box(), affine=AFFINE + 2e-4), GRID)
    with pytest.raises(InputError, match=r"affine of the image, but .* differs by up to 0\.5"):
        check_grid(save(box(), affine=AFFINE + np.eye(4)[[3, 3, 0, 3]] * 0.5), GRID)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((8, 7, 5), "u1"), r"\(8, 7, 6\) voxels, but .*mask.nii.gz has \(8, 7, 5\)"),
        (np.ones((*SHAPE, 2), "u1"), r"has \(8, 7, 6, 2\)"),
        (np.zeros(SHAPE, "u1"), "must contain voxels, but is empty"),
    ],
)
def test_unusable_masks_are_named(data, save, values, message):
    with pytest.raises(InputError, match=message):
        compute_mask(data, IS_B0, GRID, given=save(values), derivative=None)


def test_a_mask_outside_the_signal_is_an_error(data, save):
    data[2:5] = 0
    with pytest.raises(InputError, match="none of its 27 voxels has any"):
        compute_mask(data, IS_B0, GRID, derivative=save(box()))


def test_an_absent_mask_and_a_file_that_is_no_image_are_named(data, tmp_path):
    with pytest.raises(InputError, match=r"does not exist, .*datalad get"):
        compute_mask(data, IS_B0, GRID, given=tmp_path / "gone.nii.gz")
    path = tmp_path / "text.nii.gz"
    path.write_text("no image")
    with pytest.raises(InputError, match="must be a NIfTI image"):
        compute_mask(data, IS_B0, GRID, given=path)


def test_without_b0_there_is_no_mask(data):
    with pytest.raises(InputError, match="needs a b0 image"):
        compute_mask(data, np.zeros(3, dtype=bool), GRID)


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["01_cfin_multishell_brain", "04_leg_ivim_dti"])
def test_computed_masks_resemble_those_made_with_care(real_data, tmp_path, folder):
    (run,), _ = find_runs(RunSettings(real_data / folder, tmp_path, "participant"))
    data, grid = read_data(run.image)
    is_b0 = read_acquisition(run)[0].bvals.numpy() <= 100
    careful = compute_mask(data, is_b0, grid, derivative=run.companions["mask"])
    computed = compute_mask(data, is_b0, grid)
    assert careful.counts["removed"] == 0
    overlap = 2 * (careful.mask & computed.mask).sum() / (careful.mask.sum() + computed.mask.sum())
    assert overlap > 0.95
