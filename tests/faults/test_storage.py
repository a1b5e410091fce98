"""Disks that are full or may not be written, with real file systems of limited size."""

import math
import os
import shutil
import subprocess

import numpy as np
import pytest

from bids_gmvae.exceptions import ExitCode
from bids_gmvae.io.atomic import TEMPORARY
from tests.faults.bench import contents
from tests.faults.processes import command, complete, finish
from tests.tiny import BVALS, signals, tiny_dataset

pytestmark = pytest.mark.slow

#: A name space of its own, where anybody may mount; copies what is left before it vanishes.
WITHIN = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
SCRIPT = (
    'mount -t tmpfs -o {options} tmpfs "$0" && '
    '{{ "$@"; code=$?; cp -a "$0/." "$0.copy"; exit $code; }}'
)


def mount(folder, options, arguments):
    """Run a command with a file system of its own in a folder; gives code, text and content."""
    folder.mkdir(parents=True)
    wrapped = [*WITHIN, SCRIPT.format(options=options), str(folder), *arguments]
    code, said = finish(wrapped)
    return code, said, folder.with_name(f"{folder.name}.copy")


@pytest.fixture(scope="module", autouse=True)
def _mounts():
    """Skip where no file system can be mounted."""
    if subprocess.run([*WITHIN, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        # In CI they can: a suite that is skipped there would be missed by nobody.
        stop = pytest.fail if "CI" in os.environ else pytest.skip
        stop("file systems cannot be mounted here")


def assert_told(code, said, expected=ExitCode.NO_SPACE):
    assert code == expected, said
    assert "Free space or choose" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.3, ExitCode.NO_SPACE), (0.9, ExitCode.REPORT_FAILED)],
    ids=["while maps are written", "while the report is"],
)
def test_a_disk_that_fills_up_keeps_what_is_finished(one_mapped, tmp_path, share, expected):
    needed = sum(path.stat().st_size for path in (one_mapped / "out").rglob("*") if path.is_file())
    arguments = command(one_mapped / "bids", tmp_path)
    code, said, copy = mount(tmp_path / "out", f"size={int(share * needed)}", arguments)
    assert_told(code, said, expected)
    whole, written = contents(one_mapped / "out"), complete(copy)
    # What lists the files that there are is written anew with the rest.
    written.pop("manifest.tsv", None)
    assert {name: whole.get(name) for name in written} == written
    assert not [path for path in copy.rglob(f"{TEMPORARY}*")]
    shutil.rmtree(tmp_path / "out")
    copy.rename(tmp_path / "out")
    code, said = finish(arguments)
    assert code == ExitCode.OK, said
    assert "fitting" not in said
    assert contents(tmp_path / "out") == whole


def test_a_work_directory_that_fills_up_is_told(one_mapped, tmp_path):
    arguments = command(one_mapped / "bids", tmp_path)
    code, said, _ = mount(tmp_path / "work", "size=120k", arguments)
    assert_told(code, said)
    assert not list((tmp_path / "out").rglob("*_dwimap.nii.gz"))
    code, said = finish(arguments)
    assert code == ExitCode.OK, said
    assert contents(tmp_path / "out") == contents(one_mapped / "out")


def test_a_work_directory_without_room_for_the_voxels_is_told(one_mapped, tmp_path):
    shape = (60, 60, 20)
    stem = "sub-01/dwi/sub-01"
    files = {
        f"{stem}_dwi.nii.gz": signals(0, shape=shape),
        f"derivatives/masks/{stem}_desc-brain_mask.nii.gz": np.ones(shape, "u1"),
    }
    tiny_dataset(tmp_path / "bids", stem, **files)
    needed = math.prod(shape) * len(BVALS) * np.float32().itemsize
    arguments = command(tmp_path / "bids", tmp_path)
    code, said, copy = mount(tmp_path / "work", f"size={needed}", arguments)
    assert_told(code, said)
    assert "signals.f32" in said
    assert list(copy.rglob("mask.npz"))
    assert not list((tmp_path / "out").rglob("*_dwimap.nii.gz"))


@pytest.mark.parametrize("name", ["out", "work"])
def test_a_read_only_folder_is_named(one_mapped, tmp_path, name):
    code, said, _ = mount(tmp_path / name, "ro", command(one_mapped / "bids", tmp_path))
    assert code == ExitCode.NO_SPACE, said
    assert str(tmp_path / name) in said
    assert "Read-only file system" in said or "read-only" in said
    assert "Traceback" not in said


#: Makes root a user like others, who may not write everything.
POWERLESS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.mark.parametrize("name", ["out", "work"])
def test_a_folder_that_may_not_be_written_is_named(one_mapped, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir(mode=0o555)
    arguments = command(one_mapped / "bids", tmp_path)
    code, said = finish([*POWERLESS, *arguments] if os.geteuid() == 0 else arguments)
    assert code == ExitCode.NO_SPACE, said
    assert str(folder) in said
    assert "Permission denied" in said or "permission" in said
    assert "Traceback" not in said
    assert list(folder.iterdir()) == []
