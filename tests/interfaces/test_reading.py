from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.config import ModelSettings, RunSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.interfaces import CheckRun, ComputeMask, ExtractVoxels
from bids_gmvae.io.measured import MeasuredRun
from bids_gmvae.modalities import dwi
from bids_gmvae.workflows.dwi import CHECK_SETTINGS, NOISE_SETTINGS, pick
from tests.bids_tree import AFFINE, directions, text_of
from tests.tiny import BVALS, SHAPE, signals, tiny_dataset

STEM = "sub-01/dwi/sub-01"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Send a run with other files than usual through check, mask and extraction."""
    monkeypatch.chdir(tmp_path)

    def through(files, **settings):
        root = tiny_dataset(tmp_path / "bids", STEM, **files)
        (run,), _ = dwi.find_runs(RunSettings(root, tmp_path / "out", "participant"))
        model = ModelSettings(**settings)
        values = run.to_dict()
        checked = CheckRun(run=values, settings=pick(model, CHECK_SETTINGS)).run().outputs.checked
        mask = ComputeMask(checked=checked, mask=model.mask, b0_threshold=model.b0_threshold).run()
        extract = ExtractVoxels(
            checked=checked,
            mask=mask.outputs.mask,
            settings=pick(model, NOISE_SETTINGS),
            directional=True,
        )
        return MeasuredRun.load(Path(extract.run().outputs.voxels))

    return through


def image(values, voxel=(2.0, 2.0, 2.0)):
    return {f"{STEM}_dwi.nii.gz": (values, np.diag([*voxel, 1.0]))}


def test_the_threshold_of_b0_decides_on_mask_and_reference(read):
    bvals = np.where(BVALS == 0, 150, BVALS)
    measured = read({f"{STEM}_dwi.bval": text_of(bvals)}, b0_threshold=200)
    assert np.allclose(measured.reference, signals(0)[..., BVALS == 0].mean(axis=-1))


def test_findings_name_files_from_the_root_of_the_dataset(read, tmp_path):
    bvecs = directions(len(BVALS)) * (BVALS[:, None] > 0) * 1.05
    measured = read({f"{STEM}_dwi.bvec": text_of(bvecs.T)})
    (issue,) = [item for item in measured.info["issues"] if item["code"] == "bvecs_length"]
    assert f" {STEM}_dwi.bvec " in issue["text"]
    assert str(tmp_path) not in issue["text"]


def test_a_mask_of_the_user_makes_up_for_an_unusable_one(read, tmp_path):
    given = tmp_path / "given.nii.gz"
    nb.save(nb.Nifti1Image(np.ones(SHAPE, "u1"), AFFINE), given)
    derivative = f"derivatives/masks/{STEM}_desc-brain_mask.nii.gz"
    measured = read({derivative: np.ones((2, 2, 2), "u1")}, mask=str(given))
    assert measured.mask.all()


def test_a_volume_that_is_not_finite_is_named(read):
    values = signals(0).astype("f4")
    values[..., 9] = np.nan
    with pytest.raises(InputError, match=r"volume 9 \(counted from 0\) hold none"):
        read(image(values))


def test_single_values_that_are_not_finite_stay_in_the_mask_with_a_warning(read):
    values = signals(0).astype("f4")
    values[3, 3, 1, 9] = np.nan
    measured = read(image(values))
    assert measured.mask[3, 3, 1]
    assert not measured.removed.any()
    assert "not_finite" in {issue["code"] for issue in measured.info["issues"]}


def test_gradients_are_checked_with_the_edges_of_the_voxel(read, monkeypatch):
    seen = []

    def look(*_, voxel_size, **__):
        seen.append(tuple(voxel_size))
        return []

    monkeypatch.setattr(dwi, "check_data", look)
    voxel = (2.0, 2.0, 5.0)
    mask = np.ones(SHAPE, "u1"), np.diag([*voxel, 1.0])
    read(image(signals(0), voxel) | {f"derivatives/masks/{STEM}_desc-brain_mask.nii.gz": mask})
    assert seen == [voxel]


def test_what_a_noise_map_lacks_is_told_and_kept(read, tmp_path, caplog):
    noise = np.full(SHAPE, 25.0, "f4")
    noise[3, 3] = 0
    nb.save(nb.Nifti1Image(noise, AFFINE), tmp_path / "noise.nii.gz")
    with caplog.at_level("WARNING", "bids_gmvae"):
        measured = read({}, noise_map=str(tmp_path / "noise.nii.gz"))
    (issue,) = [item for item in measured.info["issues"] if item["code"] == "noise_map_incomplete"]
    assert issue["severity"] == "warning"
    assert "in 3 of 60 voxels (5.0%)" in issue["text"]
    assert str(tmp_path) not in issue["text"]
    assert issue["text"] in caplog.text
