"""``--validate-outputs`` on what the app really wrote: whole, and damaged in every way."""

import json
import os
import re
import shutil
import subprocess
import sys

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.exceptions import ExitCode
from bids_gmvae.io.atomic import read_tsv, write_image, write_tsv
from bids_gmvae.io.dataset import validate
from bids_gmvae.io.manifest import COLUMNS, write_manifest
from bids_gmvae.io.validation import validate as examine
from tests.tiny import tiny_dataset

STEM = "sub-01/dwi/sub-01"
MSD = f"{STEM}_model-msdki_param-msd_desc-mean_dwimap"


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bids_gmvae", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A dataset, and the maps of it."""
    root = tmp_path_factory.mktemp("study")
    tiny_dataset(root / "bids", STEM)
    code, _, error = run(
        root / "bids", root / "out", "participant", "-w", root / "work", "--estimator", "lsq"
    )
    assert code == ExitCode.OK, error
    return root


@pytest.fixture
def out(study, tmp_path):
    """A copy to be damaged; its mapped image is where it was."""
    return shutil.copytree(study / "out", tmp_path / "out")


def named(problems):
    """Give the files that problems are about."""
    return {problem.split(": ")[0] for problem in problems}


def rewrite(path, data=None, affine=None):
    image = nb.load(path)
    data = np.asanyarray(image.dataobj).copy() if data is None else data
    write_image(path, nb.Nifti1Image(data, image.affine if affine is None else affine))


def flip_a_byte(out):
    path = out / f"{MSD}.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def delete_a_sidecar(out):
    path = out / f"{MSD}.json"
    path.unlink()
    return path


def delete_the_mask(out):
    path = out / f"{STEM}_desc-gmvae_mask.nii.gz"
    path.unlink()
    return path


def drop_a_field_of_a_sidecar(out):
    path = out / f"{MSD}.json"
    content = json.loads(path.read_text())
    del content["Units"]
    path.write_text(json.dumps(content))
    return path


def move_a_map(out):
    path = out / f"{MSD}.nii.gz"
    affine = nb.load(path).affine.copy()
    affine[0, 3] += 2
    rewrite(path, affine=affine)
    return path


def move_the_mask(out):
    path = out / f"{STEM}_desc-gmvae_mask.nii.gz"
    rewrite(path, affine=np.eye(4))
    return path


def cut_the_mask(out):
    path = out / f"{STEM}_desc-gmvae_mask.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    return path


def exceed_the_range(out):
    path = out / f"{MSD}.nii.gz"
    data = nb.load(path).get_fdata(dtype=np.float32)
    data[3, 3, 1] = 1.0  # mm^2/s, 300 times free water
    rewrite(path, data)
    return path


def make_a_deviation_negative(out):
    path = out / f"{MSD.replace('mean', 'std')}.nii.gz"
    rewrite(path, -nb.load(path).get_fdata(dtype=np.float32))
    return path


def make_a_signal_negative(out):
    path = out / f"{MSD.replace('msd_', 's0_')}.nii.gz"
    rewrite(path, -nb.load(path).get_fdata(dtype=np.float32))
    return path


def forge_a_status(out):
    path = out / f"{STEM}_model-msdki_desc-status_dseg.nii.gz"
    data = np.asanyarray(nb.load(path).dataobj).copy()
    data[3, 3, 1] = 99
    rewrite(path, data)
    return path


def drop_a_line_of_the_manifest(out):
    rows = [row for row in read_tsv(out / "manifest.tsv") if row["path"] != f"{MSD}.nii.gz"]
    write_tsv(out / "manifest.tsv", rows, COLUMNS)
    return out / f"{MSD}.nii.gz"


def add_a_file(out):
    path = out / "sub-01" / "dwi" / "notes.txt"
    path.write_text("mine")
    return path


def lose_the_manifest(out):
    (out / "manifest.tsv").write_bytes(b"path\tsize\xff")
    return out / "manifest.tsv"


#: What is done, and what is said of the file beyond that it is not the one of the manifest.
DAMAGE = [
    (flip_a_byte, "its checksum is not that of"),
    (delete_a_sidecar, "but not there"),
    (delete_the_mask, "but not there"),
    (drop_a_field_of_a_sidecar, "'Units' is a required property"),
    (move_a_map, "the grid is not that of its source sub-01_dwi.nii.gz"),
    (move_the_mask, "the grid is not that of its source"),
    (cut_the_mask, "the image cannot be read"),
    (exceed_the_range, "exceed the range"),
    (make_a_deviation_negative, "exceed the range 0 to inf"),
    (make_a_signal_negative, "exceed the range 0 to inf"),
    (forge_a_status, r"unknown status codes \[99\]"),
    (drop_a_line_of_the_manifest, "it is not in manifest.tsv"),
    (add_a_file, "it is not in manifest.tsv"),
    (lose_the_manifest, "missing or cannot be read"),
]


def test_what_was_written_passes_and_its_input_is_found(study):
    found = examine(study / "out")
    assert found.problems == ()
    assert found.unreachable == ()
    assert found.n_files > 20


@pytest.mark.parametrize(("damage", "says"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_damage_is_named_with_its_file_and_nothing_else(out, damage, says):
    path = damage(out)
    problems = validate(out)
    assert named(problems) == {path.relative_to(out).as_posix()}
    assert re.search(says, "\n".join(problems))


@pytest.mark.parametrize("damage", [move_a_map, exceed_the_range, drop_a_field_of_a_sidecar])
def test_what_is_wrong_is_found_even_if_the_manifest_agrees(out, damage):
    path = damage(out)
    write_manifest(out)
    assert named(validate(out)) == {path.relative_to(out).as_posix()}


def test_maps_of_another_grid_than_the_input_are_found_where_the_input_is_now(study, out):
    moved = shutil.copytree(study / "bids", out.parent / "bids")
    rewrite(moved / f"{STEM}_dwi.nii.gz", affine=np.eye(4))
    found = examine(out, {"raw": moved})
    assert named(found.problems) == {
        path.relative_to(out).as_posix() for path in out.rglob("sub-*.nii.gz")
    }


def test_an_input_that_is_gone_is_told(out):
    description = json.loads((out / "dataset_description.json").read_text())
    description["DatasetLinks"]["raw"] = "file:///nowhere"
    (out / "dataset_description.json").write_text(json.dumps(description))
    write_manifest(out)
    found = examine(out)
    assert found.problems == ()
    assert f"bids:raw:{STEM}_dwi.nii.gz" in found.unreachable


def test_damage_to_others_is_not_taken_for_the_original(out):
    path = flip_a_byte(out)
    extra = out / "sub-02" / "dwi" / "sub-02_desc-x_qc.json"
    extra.parent.mkdir(parents=True)
    extra.write_text("{}")
    (out / "sub-03").mkdir()
    (out / "sub-03" / "half.json").write_text("{}")
    (out / "README.md").write_text("mine")
    write_manifest(out, ["02"])
    assert named(validate(out)) == {path.relative_to(out).as_posix(), "sub-03/half.json"}


def test_a_lost_manifest_is_made_again_by_a_call_that_maps_nobody(out):
    listed = (out / "manifest.tsv").read_bytes()
    (out / "manifest.tsv").unlink()
    write_manifest(out, ["02"])  # which may run beside one that maps the others
    assert not [row for row in read_tsv(out / "manifest.tsv") if "sub-01" in row["path"]]
    (out / "manifest.tsv").unlink()
    write_manifest(out, [])
    assert (out / "manifest.tsv").read_bytes() == listed


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_command_tells_by_its_exit_code_and_writes_nothing(study, out):
    command = (study / "bids", out, "participant", "-w", out.parent / "w", "--validate-outputs")
    before = everything(out.parent)
    code, text, error = run(*command)
    assert (code, error) == (ExitCode.OK, "")
    assert re.fullmatch(r"Valid: \d+ files as written\.\n", text)
    assert everything(out.parent) == before
    path = exceed_the_range(out)
    before = everything(out.parent)
    code, text, error = run(*command)
    assert code == ExitCode.INVALID_OUTPUT
    assert named(text.splitlines()) == {path.relative_to(out).as_posix()}
    assert "2 problems in" in error
    assert everything(out.parent) == before


def test_reports_that_are_made_again_belong_to_what_was_written(study, out):
    (out / "sub-01.html").write_text("outdated")
    code, _, error = run(
        study / "bids", out, "participant", "-w", out.parent / "w", "--reports-only"
    )
    assert code == ExitCode.OK, error
    assert (out / "sub-01.html").read_text() != "outdated"
    assert validate(out) == []


def test_an_output_folder_without_content_is_told(study, tmp_path):
    code, _, error = run(study / "bids", tmp_path / "none", "group", "--validate-outputs")
    assert code == ExitCode.NOTHING_ELIGIBLE
    assert "nothing to validate" in error
