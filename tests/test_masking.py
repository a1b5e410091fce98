"""Masks: where they come from, and what is taken away from them."""

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.images import open_image
from bids_gmvae.io.volumes import mean_volume
from bids_gmvae.masking import Mask, check_grid, find_mask, read_mask
from bids_gmvae.modalities.dwi import find_runs, read_acquisition
from bids_gmvae.voxels import Grid

SHAPE = (8, 7, 6)
AFFINE = np.array([[-2, 0.1, 0, 9], [0.1, 2, 0.2, 5], [0, -0.2, 2, 3], [0, 0, 0, 1]], dtype=float)
GRID = Grid(SHAPE, AFFINE, 1, 1)


def not_needed():
    raise AssertionError("the image was read although a mask is given")


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


def test_a_given_mask_comes_before_that_of_the_derivative_and_no_image_is_read(save):
    given, derivative = save(box(2, 4), "given.nii.gz"), save(box(), "derivative.nii.gz")
    both = find_mask(not_needed, GRID, given=given, derivative=derivative)
    assert (both.source, both.path, both.mask.sum()) == ("given", given, 8)
    one = find_mask(not_needed, GRID, derivative=derivative)
    assert (one.source, one.path) == ("derivative", derivative)
    np.testing.assert_array_equal(one.mask, box().astype(bool))


def test_without_a_mask_the_bright_part_of_the_b0_image_is_taken():
    shape = (30, 30, 12)
    centre = np.stack(np.indices(shape), -1) - [15, 15, 6]
    ball = (np.linalg.norm(centre * [1, 1, 2], axis=-1)) < 10
    noise = np.random.default_rng(0).rayleigh(5, shape)
    found = find_mask(lambda: ball * 200 + noise, Grid(shape, AFFINE, 1, 1))
    assert (found.source, found.path) == ("median_otsu", None)
    overlap = 2 * (found.mask & ball).sum() / (found.mask.sum() + ball.sum())
    assert overlap > 0.9


def test_holes_of_a_computed_mask_are_filled():
    shape = (30, 30, 12)
    b0 = np.zeros(shape)
    b0[5:25, 5:25, 2:10] = 200
    b0[13:17, 13:17, 5:7] = 1
    assert find_mask(lambda: b0, Grid(shape, AFFINE, 1, 1)).mask[14, 14, 5]


def test_voxels_without_signal_are_taken_away(tmp_path):
    mask = Mask(box().astype(bool), "derivative", tmp_path / "mask.nii.gz")
    removed = np.zeros(SHAPE, dtype=bool)
    removed[2] = True
    assert np.array_equal(mask.without(removed), mask.mask & ~removed)
    with pytest.raises(InputError, match=r"mask\.nii\.gz.* none of its 27 voxels has any"):
        mask.without(mask.mask)


def test_float_masks_are_cut_at_one_half_and_may_have_a_fourth_axis(save):
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
def test_unusable_masks_are_named(save, values, message):
    with pytest.raises(InputError, match=message):
        find_mask(not_needed, GRID, given=save(values))


def test_an_absent_mask_and_a_file_that_is_no_image_are_named(tmp_path):
    with pytest.raises(InputError, match=r"does not exist, .*datalad get"):
        find_mask(not_needed, GRID, given=tmp_path / "gone.nii.gz")
    path = tmp_path / "text.nii.gz"
    path.write_text("no image")
    with pytest.raises(InputError, match="must be a NIfTI image"):
        find_mask(not_needed, GRID, given=path)


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["01_cfin_multishell_brain", "04_leg_ivim_dti"])
def test_computed_masks_resemble_those_made_with_care(real_data, tmp_path, folder):
    (run,), _ = find_runs(RunSettings(real_data / folder, tmp_path, "participant"))
    image = open_image(run.image)
    is_b0 = read_acquisition(run)[0].bvals.numpy() <= 100
    careful = find_mask(not_needed, Grid.of(image), derivative=run.companions["mask"]).mask
    computed = find_mask(lambda: mean_volume(image, is_b0), Grid.of(image)).mask
    overlap = 2 * (careful & computed).sum() / (careful.sum() + computed.sum())
    assert overlap > 0.95
