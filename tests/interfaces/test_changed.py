"""Files of the dataset that change between two calls, or between two stages of one."""

import os
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch

from bids_gmvae.config import ModelSettings, RunSettings
from bids_gmvae.exceptions import ExitCode, GMVAEError
from bids_gmvae.interfaces import CheckRun, ComputeMask, ExtractVoxels
from bids_gmvae.io import volumes
from bids_gmvae.io.measured import MeasuredRun
from bids_gmvae.modalities import dwi, dwi_tables
from bids_gmvae.workflows.dwi import NOISE_SETTINGS, init_dwi_wf, pick
from tests.bids_tree import AFFINE, directions, text_of, write_tree
from tests.tiny import BVALS, SHAPE, signals, tiny_dataset, tiny_run

STEM = "sub-01/dwi/sub-01"
IMAGE = f"{STEM}_dwi.nii.gz"
MASK = f"derivatives/masks/{STEM}_desc-brain_mask.nii.gz"
#: Other contents for each file of a run.
OTHERS = {
    IMAGE: signals(5),
    MASK: np.ones(SHAPE, "u1"),
    f"{STEM}_dwi.bvec": text_of((directions(len(BVALS), 7) * (BVALS[:, None] > 0)).T),
}


def find_run(root):
    (run,), _ = dwi.find_runs(RunSettings(root, root.parent / "out", "participant"))
    return run


VOXELS = "dwi_wf/extract/voxels.pt"


def read_again(root, work_dir, **settings):
    """Run the graph that reads a run, as a further call with the same work directory does."""
    workflow = init_dwi_wf(find_run(root), ModelSettings(**settings))
    workflow.base_dir = str(work_dir)
    workflow.config["execution"] = {"hash_method": "content", "create_report": "false"}
    workflow.run()
    return MeasuredRun.load(work_dir / VOXELS).measurements


def test_files_that_changed_since_the_last_call_are_read_again(tmp_path):
    root, noise = tiny_dataset(tmp_path / "bids", STEM), tmp_path / "noise.nii.gz"
    nb.save(nb.Nifti1Image(np.full(SHAPE, 20.0, "f4"), AFFINE), noise)
    before = read_again(root, tmp_path, noise_map=str(noise))

    bvals = np.where(BVALS == 1000, 1100, BVALS)
    (root / f"{STEM}_dwi.bval").write_text(text_of(bvals))
    write_tree(root, {IMAGE: signals(5)})
    nb.save(nb.Nifti1Image(np.full(SHAPE, 25.0, "f4"), AFFINE), noise)
    after = read_again(root, tmp_path, noise_map=str(noise))

    assert before.acquisition.bvals.max() == after.acquisition.bvals.max() == 2000
    assert after.acquisition.bvals.tolist() == bvals.tolist()
    assert not np.array_equal(after.signals, before.signals)
    assert set(after.sigma.tolist()) == {25.0}


def replace_quietly(root, name):
    """Put another file in the place of one, and keep its times, as cp -p and rsync -a do."""
    path = root / name
    before = path.stat()
    path.unlink()
    write_tree(root, {name: OTHERS[name]})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_changed_but_not_their_time_are_read_again(tmp_path, name):
    root = tiny_dataset(tmp_path / "bids", STEM)
    read_again(root, tmp_path)
    replace_quietly(root, name)
    after = read_again(root, tmp_path)
    (tmp_path / "anew").mkdir()
    anew = read_again(root, tmp_path / "anew")
    np.testing.assert_array_equal(after.signals, anew.signals)
    np.testing.assert_array_equal(after.acquisition.bvecs, anew.acquisition.bvecs)


def test_files_that_were_only_touched_are_not_read_again(tmp_path):
    root = tiny_dataset(tmp_path / "bids", STEM)
    read_again(root, tmp_path)
    before = (tmp_path / VOXELS).stat().st_mtime_ns
    for path in root.rglob("*"):
        os.utime(path)
    read_again(root, tmp_path)
    assert (tmp_path / VOXELS).stat().st_mtime_ns == before


def test_a_corrected_description_of_a_dataset_turns_the_directions(tmp_path):
    stem = f"{STEM}_space-T1w_desc-preproc"
    description = {"BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": []}
    files = tiny_run(stem, 0) | {"dataset_description.json": description}
    root = write_tree(tmp_path / "preprocessed", files)
    of_fsl = read_again(root, tmp_path).acquisition.bvecs
    description |= {"GeneratedBy": [{"Name": "QSIPrep"}]}
    write_tree(root, {"dataset_description.json": description})
    of_qsiprep = read_again(root, tmp_path).acquisition.bvecs
    np.testing.assert_allclose(of_qsiprep, of_fsl * torch.tensor([-1, 1, 1]))


class Stages:
    """The stages that read a run, one at a time."""

    def __init__(self, root):
        self.root = root
        self.run = find_run(root)

    def check(self):
        done = CheckRun(run=self.run.to_dict(), settings={}).run()
        self.checked = done.outputs.checked

    def mask(self):
        self.found = ComputeMask(checked=self.checked).run().outputs.mask

    def extract(self):
        settings = pick(ModelSettings(), NOISE_SETTINGS)
        ExtractVoxels(checked=self.checked, mask=self.found, settings=settings).run()


@pytest.fixture
def stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Stages(tiny_dataset(tmp_path / "bids", STEM))


def assert_told(stage, name):
    with pytest.raises(GMVAEError, match=f"{Path(name).name} was changed while it was") as told:
        stage()
    assert told.value.exit_code == ExitCode.RUN_FAILED
    assert told.value.hint == "Run the command again."


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_change_between_two_stages_are_not_combined(stages, name):
    stages.check()
    stages.mask()
    replace_quietly(stages.root, name)
    assert_told(stages.mask, name)
    assert_told(stages.extract, name)


def test_a_file_that_vanishes_between_two_stages_is_named(stages):
    stages.check()
    (stages.root / IMAGE).unlink()
    assert_told(stages.mask, IMAGE)


@pytest.mark.parametrize(
    ("stage", "module", "function"),
    [
        ("check", dwi_tables, "read_bvecs"),
        ("mask", volumes, "mean_volume"),
        ("extract", volumes, "read_rows"),
    ],
)
def test_files_that_change_while_they_are_read_are_not_combined(
    stages, monkeypatch, stage, module, function
):
    (stages.root / MASK).unlink()
    stages.run = find_run(stages.root)
    for earlier in ("check", "mask", "extract"):
        if earlier == stage:
            break
        getattr(stages, earlier)()
    original = getattr(module, function)

    def read(*arguments):
        result = original(*arguments)
        replace_quietly(stages.root, IMAGE)
        return result

    monkeypatch.setattr(module, function, read)
    assert_told(getattr(stages, stage), IMAGE)


def test_files_that_are_touched_between_two_stages_are_the_same(stages):
    stages.check()
    for path in stages.root.rglob("*"):
        os.utime(path)
    stages.mask()
    stages.extract()
