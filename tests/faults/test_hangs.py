"""What is no file, and would be read without end, is refused at once."""

import os

import pytest

from bids_gmvae.exceptions import ExitCode, InputError
from bids_gmvae.io.inheritance import require_content
from tests.faults.processes import command, finish
from tests.tiny import tiny_dataset

EXTENSIONS = (".nii.gz", ".bval", ".bvec", ".json")


@pytest.mark.slow
def test_pipes_named_like_files_of_a_dataset_are_refused_one_by_one(tmp_path):
    stems = [f"sub-0{number}/dwi/sub-0{number}" for number in range(5)]
    bids = tiny_dataset(tmp_path / "bids", *stems)
    pipes = [
        bids / f"{stem}_dwi{extension}"
        for stem, extension in zip(stems[1:], EXTENSIONS, strict=True)
    ]
    for pipe in pipes:
        pipe.unlink()
        os.mkfifo(pipe)
    code, said = finish(command(bids, tmp_path, "--dry-run"))
    assert code == ExitCode.OK, said
    for pipe in pipes:
        assert f"{pipe} must be a file, but is a folder, a pipe or a device." in said
    assert "1 run of 1 participant would be mapped." in said


def test_a_device_is_refused(tmp_path):
    link = tmp_path / "sub-01_dwi.json"
    link.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="must be a file, but is a folder, a pipe or a device"):
        require_content(link)
