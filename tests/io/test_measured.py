import nibabel as nb
import numpy as np
import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.measured import noise_level, noise_map_faults
from bids_gmvae.voxels import Grid
from tests.bids_tree import directions
from tests.tiny import BVALS, SHAPE, signals

GRID = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0]), 1, 1)
ACQUISITION = Acquisition(
    bvals=torch.from_numpy(BVALS),
    bvecs=torch.from_numpy(directions(len(BVALS)) * (BVALS[:, None] > 0)),
)


@pytest.fixture
def mask():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1:-1, 1:-1] = True
    return mask


def test_the_noise_of_the_voxels_is_found(mask):
    rows = torch.from_numpy(signals(0)[mask].astype(np.float32))
    sigma = noise_level(rows, mask, GRID, ACQUISITION, ModelSettings())
    assert sigma.dtype == torch.float32
    assert sigma.median() == pytest.approx(30, rel=0.2)


def test_one_number_is_the_median_of_the_noise_map(mask):
    rows = torch.from_numpy(signals(0)[mask].astype(np.float32))
    smooth = noise_level(rows, mask, GRID, ACQUISITION, ModelSettings())
    single = noise_level(rows, mask, GRID, ACQUISITION, ModelSettings(noise_map="global"))
    assert len(set(single.tolist())) == 1
    assert single[0] == pytest.approx(float(np.median(smooth.numpy())))


def test_a_given_noise_map_is_used_and_its_holes_are_filled(tmp_path, mask):
    values = np.full(SHAPE, 25, np.float32)
    values[2, 2, 1] = 0
    nb.save(nb.Nifti1Image(values, GRID.affine), tmp_path / "noise.nii.gz")
    settings = ModelSettings(noise_map=str(tmp_path / "noise.nii.gz"))
    rows = torch.ones(int(mask.sum()), len(BVALS))
    assert torch.equal(
        noise_level(rows, mask, GRID, ACQUISITION, settings), torch.full((len(rows),), 25.0)
    )


@pytest.mark.parametrize(
    ("values", "affine", "said"),
    [
        (np.ones((2, 2, 2), np.float32), GRID.affine, "noise map must have the grid"),
        (np.ones(SHAPE, np.float32), np.eye(4), "noise map must have the affine"),
        (np.zeros(SHAPE, np.float32), GRID.affine, "zero or not finite"),
    ],
)
def test_an_unusable_noise_map_is_refused(tmp_path, mask, values, affine, said):
    path = tmp_path / "noise.nii.gz"
    nb.save(nb.Nifti1Image(values, affine), path)
    rows = torch.ones(int(mask.sum()), len(BVALS))
    with pytest.raises(InputError, match=said):
        noise_level(rows, mask, GRID, ACQUISITION, ModelSettings(noise_map=str(path)))


def test_holes_of_a_noise_map_are_counted(tmp_path, mask):
    values = np.full(SHAPE, 25, np.float32)
    path = tmp_path / "noise.nii.gz"
    settings = ModelSettings(noise_map=str(path))
    nb.save(nb.Nifti1Image(values, GRID.affine), path)
    assert list(noise_map_faults(mask, GRID, settings)) == []
    assert list(noise_map_faults(mask, GRID, ModelSettings())) == []
    values[0] = -1  # no voxels of the mask
    values[2, 2], values[3, 2, 1] = np.nan, 0
    nb.save(nb.Nifti1Image(values, GRID.affine), path)
    ((code, text, _),) = noise_map_faults(mask, GRID, settings)
    assert code == "noise_map_incomplete"
    assert f"in 4 of {mask.sum()} voxels ({4 / mask.sum():.1%})" in text
    assert "others, 25," in text


@pytest.mark.parametrize("n_usable", [1, 29, 30])
def test_a_noise_map_must_know_half_of_the_mask(tmp_path, mask, n_usable):
    values = np.zeros(SHAPE, np.float32)
    values[tuple(np.argwhere(mask)[:n_usable].T)] = 7
    path = tmp_path / "noise.nii.gz"
    nb.save(nb.Nifti1Image(values, GRID.affine), path)
    settings = ModelSettings(noise_map=str(path))
    if 2 * n_usable >= mask.sum():
        assert len(list(noise_map_faults(mask, GRID, settings))) == 1
        return
    with pytest.raises(InputError, match=f"in only {n_usable} of 60 voxels"):
        noise_level(torch.ones(60, len(BVALS)), mask, GRID, ACQUISITION, settings)


def test_a_noise_map_that_is_no_image_is_named(tmp_path, mask):
    path = tmp_path / "noise.nii.gz"
    path.write_text("no image")
    rows = torch.ones(int(mask.sum()), len(BVALS))
    with pytest.raises(InputError, match=r"noise map .*noise\.nii\.gz must be a NIfTI image"):
        noise_level(rows, mask, GRID, ACQUISITION, ModelSettings(noise_map=str(path)))
