import errno
import json
import os
import subprocess
import sys

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.config import ExecutionSettings, RunSettings
from bids_gmvae.exceptions import InputError, StorageError
from bids_gmvae.io import atomic
from bids_gmvae.io.dataset import (
    description,
    initialise,
    merge_description,
    remove_unfinished,
    validate,
)
from bids_gmvae.io.derivatives import write_result
from bids_gmvae.io.manifest import dataset_files, read_manifest, write_manifest
from tests.results import PROVENANCE, make_result

STEM = "sub-01/ses-1/dwi/sub-01_ses-1_space-ACPC"


def read(out_dir):
    return json.loads((out_dir / "dataset_description.json").read_text())


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A whole output dataset; tests that change it take a copy."""
    out_dir = tmp_path_factory.mktemp("pristine") / "bids_gmvae"
    for name in ("ball_stick", "t2_adc"):
        write_result(make_result(name), out_dir, provenance=PROVENANCE)
    initialise(out_dir, None, {})
    write_manifest(out_dir)
    return out_dir


@pytest.fixture
def dataset(pristine, tmp_path):
    for path in pristine.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(pristine)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path


def test_a_fresh_dataset_has_what_bids_requires(tmp_path, monkeypatch):
    monkeypatch.setenv("BIDS_GMVAE_CONTAINER_TYPE", "docker")
    monkeypatch.setenv("BIDS_GMVAE_CONTAINER_TAG", "bids_gmvae:0.1.0")
    source = tmp_path / "raw"
    atomic.write_json(source / "dataset_description.json", {"DatasetDOI": "doi:10.1/x"})
    out_dir = source / "derivatives" / "bids_gmvae"
    initialise(out_dir, None, {"raw": source})
    found = read(out_dir)
    assert found["DatasetType"] == "derivative"
    assert found["BIDSVersion"] == "1.11.1"
    assert "bids_gmvae" in found["Name"]
    assert found["GeneratedBy"][0]["Container"] == {"Type": "docker", "Tag": "bids_gmvae:0.1.0"}
    assert found["DatasetLinks"] == {"raw": "../.."}
    assert found["SourceDatasets"] == [{"URL": "../..", "DOI": "doi:10.1/x"}]
    assert "figures\n" in (out_dir / ".bidsignore").read_text()
    assert "NaN" in (out_dir / "README.md").read_text()


def test_a_later_call_adds_and_keeps_what_was_edited(tmp_path):
    initialise(tmp_path, None, {"raw": tmp_path / "a"})
    edited = {**read(tmp_path), "License": "CC0", "Name": "My bids_gmvae maps"}
    edited["GeneratedBy"][0]["Version"] = "0.0.1"
    atomic.write_json(tmp_path / "dataset_description.json", edited)
    (tmp_path / ".bidsignore").write_text("mine\n")
    (tmp_path / "README.md").write_text("mine\n")
    settings = RunSettings(
        tmp_path, tmp_path, "participant", execution=ExecutionSettings(sloppy=True)
    )
    initialise(tmp_path, settings, {"qsiprep": tmp_path / "b"})
    found = read(tmp_path)
    assert (found["License"], found["Name"]) == ("CC0", "My bids_gmvae maps")
    assert found["DatasetLinks"] == {"raw": "a", "qsiprep": "b"}
    assert [entry["URL"] for entry in found["SourceDatasets"]] == ["a", "b"]
    assert found["GeneratedBy"][0]["Version"] == "0.0.1"
    assert found["GeneratedBy"][1]["Sloppy"] is True
    assert (tmp_path / ".bidsignore").read_text().startswith("mine\n*.html\n")
    assert (tmp_path / "README.md").read_text() == "mine\n"


def test_the_same_call_again_changes_nothing(tmp_path):
    new = description(tmp_path, {"raw": tmp_path / "a"})
    once = merge_description({}, new)
    assert merge_description(once, new) == once == new


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ('{"Name": "raw data"}', "no derivative")],
)
def test_a_folder_that_holds_something_else_is_refused(tmp_path, content, message):
    (tmp_path / "dataset_description.json").write_text(content)
    with pytest.raises(InputError, match=message):
        initialise(tmp_path, None, {})
    assert (tmp_path / "dataset_description.json").read_text() == content


def test_processes_that_start_together_lose_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from bids_gmvae.io.dataset import initialise\n"
        "out = Path(sys.argv[1])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(20): initialise(out, None, {f'{sys.argv[2]}{i}': out / sys.argv[2]})"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in ("a", "b")
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    assert len(read(tmp_path)["DatasetLinks"]) == 40


def test_dataset_level_files_are_written_without_torch(tmp_path):
    # The process that runs the graph writes them, and must stay light.
    code = (
        "import sys; from pathlib import Path; from bids_gmvae.io import dataset\n"
        "out = Path(sys.argv[1]); dataset.initialise(out, None, {}); dataset.write_manifest(out)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_a_lock_that_is_never_released_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "PATIENCE", 0.05)
    monkeypatch.setattr(atomic, "PAUSE", 0.01)
    with (
        atomic.locked(tmp_path),
        pytest.raises(StorageError, match="Other processes have held"),
        atomic.locked(tmp_path),
    ):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    initialise(tmp_path, None, {"raw": tmp_path / "a"})
    write_manifest(tmp_path)
    assert read(tmp_path)["DatasetLinks"] == {"raw": "a"}
    assert {row["path"] for row in read_manifest(tmp_path)} >= {"README.md"}
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "has no locks. Do not map participants there in several calls" in warning.message


def test_an_output_folder_without_permission_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "logs"))

    monkeypatch.setattr(atomic.Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="not permitted"):
        initialise(tmp_path / "out", None, {})


def test_the_manifest_lists_data_and_no_logs_or_unfinished_files(tmp_path):
    for name in ("sub-01/dwi/a.json", "sub-01.html", "logs/x.log", "work/a.json"):
        atomic.write_text(tmp_path / name, "x")
    (tmp_path / "sub-01" / ".tmp-1-b.json").write_text("x")
    write_manifest(tmp_path)
    rows = {row["path"]: row for row in read_manifest(tmp_path)}
    assert set(rows) == {"sub-01.html", "sub-01/dwi/a.json"}
    assert rows["sub-01.html"]["size"] == "1"
    assert rows["sub-01.html"]["sha256"].startswith(
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db"
    )


def test_what_killed_calls_left_of_the_own_participants_is_removed(tmp_path):
    for name in ("", "logs/", "sub-01/", "sub-01/ses-1/dwi/", "sub-01/figures/", "sub-02/dwi/"):
        atomic.write_text(tmp_path / f"{name}.tmp-0123abcd-a.json", "half")
    (tmp_path / "sub-01.html").touch()
    remove_unfinished(tmp_path, ["01", "03"])
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert sorted(name for name in left if "." in name) == [
        "sub-01.html",
        "sub-02/dwi/.tmp-0123abcd-a.json",
    ]


def test_what_was_written_is_valid(pristine):
    assert validate(pristine) == []
    assert dataset_files(pristine)


def test_a_dataset_without_manifest_is_unfinished(dataset):
    (dataset / "manifest.tsv").unlink()
    assert any("did not come to its end" in problem for problem in validate(dataset))


def change(path, function):
    image = nb.load(path)
    data = np.asanyarray(image.dataobj).copy()
    function(data)
    changed = nb.Nifti1Image(data, image.affine, image.header)
    changed.header.set_slope_inter(1, 0)
    atomic.write_image(path, changed)


def at(voxel, value):
    def put(data):
        data[voxel] = value

    return put


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("model-bs_param-vf_desc-mean_dwimap", at((3, 3, 3), 1.5), "exceed the range 0 to 1"),
        ("model-bs_param-md_desc-mean_dwimap", at((3, 3, 3), 1), "exceed the range"),
        ("model-bs_param-vf_desc-std_dwimap", at((3, 3, 3), -1), "exceed the range"),
        ("desc-mean_T2map", at((3, 3, 3), 90), "exceed the range 0.005 to 1"),
        ("model-bs_desc-unexpected_probseg", at((3, 3, 3), 1.1), "exceed the range"),
        ("model-bs_param-vf_desc-mean_dwimap", at((0, 0, 0), 0.5), "outside the mask"),
        ("model-bs_param-vf_desc-mean_dwimap", at((3, 3, 3), np.nan), "did not fail"),
        ("model-bs_param-vf_desc-lsq_dwimap", at((3, 3, 3), np.inf), "infinite"),
        ("model-bs_param-vector_desc-mean_dwimap", at((3, 3, 3), 2), "unit vectors"),
        ("model-bs_desc-status_dseg", at((3, 3, 3), 77), "unknown status codes"),
        ("model-bs_desc-status_dseg", at((3, 3, 3), 0), "disagrees with the mask"),
        ("desc-gmvae_mask", at((3, 3, 3), 2), "other values than 0 and 1"),
    ],
)
def test_wrong_values_are_found(dataset, name, function, message):
    path = dataset / f"{STEM}_{name}.nii.gz"
    change(path, function)
    problems = validate(dataset)
    assert any(message in problem and path.name in problem for problem in problems)
    # The manifest notices in any case.
    assert any("manifest.tsv" in problem and path.name in problem for problem in problems)


@pytest.mark.parametrize("name", ["desc-gmvae_mask", "model-bs_desc-status_dseg"])
@pytest.mark.parametrize("n_volumes", [1, 2])
def test_an_image_with_volumes_it_must_not_have_is_a_problem(dataset, name, n_volumes):
    path = dataset / f"{STEM}_{name}.nii.gz"
    image = nb.load(path)
    data = np.stack([np.asanyarray(image.dataobj)] * n_volumes, axis=-1)
    atomic.write_image(path, nb.Nifti1Image(data, image.affine))
    write_manifest(dataset)
    (problem,) = validate(dataset)
    assert problem.endswith(f"{path.name}: the image has 4 dimensions, not 3.")


def test_missing_foreign_and_damaged_files_are_found(dataset):
    lost = dataset / f"{STEM}_model-bs_param-vf_desc-mean_dwimap.json"
    lost.unlink()
    cut = dataset / f"{STEM}_desc-std_T2map.nii.gz"
    cut.write_bytes(cut.read_bytes()[:100])
    (dataset / "sub-01" / "new.txt").write_text("x")
    moved = dataset / f"{STEM}_model-bs_desc-residual_dwimap.nii.gz"
    image = nb.load(moved)
    atomic.write_image(moved, nb.Nifti1Image(image.get_fdata(dtype=np.float32), np.eye(4)))
    text = "\n".join(validate(dataset))
    for sentence in (
        f"{lost.name}: it is in manifest.tsv but not there",
        f"{cut.name}: the image cannot be read",
        "new.txt: it is not in manifest.tsv",
        f"{moved.name}: the grid is not that of",
    ):
        assert sentence in text
