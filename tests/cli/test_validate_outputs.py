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

from bids_gmvae.cli import workers
from bids_gmvae.cli.parser import parse_args
from bids_gmvae.cli.run import _validate_outputs
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.io.atomic import read_tsv
from bids_gmvae.io.dataset import validate
from bids_gmvae.io.manifest import write_manifest
from bids_gmvae.io.validation import validate as examine
from tests.cli.damage import (
    DAMAGE,
    MASK,
    MODEL,
    MSD,
    S0,
    STATUS,
    STEM,
    delete_a_map,
    drop_a_field_of_a_sidecar,
    exceed_the_range,
    flip_a_byte,
    move_a_map,
    rewrite,
)
from tests.tiny import tiny_dataset


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
        root / "bids", root / "out", "participant", "-w", root / "work", "--n-components", "2"
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


@pytest.fixture
def command(study, out, monkeypatch, capsys):
    """Give the command in this process: its exit code, and what it printed."""

    def here(function, *args, execution):
        return function(*args)

    def call():
        work = out.parent / "w"
        code = _validate_outputs(
            parse_args(
                [*map(str, (study / "bids", out, "participant", "-w", work, "--validate-outputs"))]
            )
        )
        return code, capsys.readouterr().out.splitlines()

    monkeypatch.setattr(workers, "run_in_child", here)
    return call


def test_what_was_written_passes_and_its_input_is_found(study):
    found = examine(study / "out")
    assert found.problems == ()
    assert found.unreachable == ()
    assert found.n_files > 20


@pytest.mark.parametrize(("damage", "says"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_damage_is_named_with_its_file_and_nothing_else(out, command, damage, says):
    path = damage(out)
    code, problems = command()
    assert code == ExitCode.INVALID_OUTPUT
    assert named(problems) == {path.relative_to(out).as_posix()}
    assert re.search(says, "\n".join(problems))


PROBABILITY = "exceed the range 0 to 1"
POSITIVE = "exceed the range 0 to inf"

#: Images, what one voxel of them is made, and what is said.
VALUES = [
    ("desc-residual_dwimap", -1, POSITIVE),
    ("desc-noise_dwimap", -1, POSITIVE),
    ("param-s0_desc-mean_dwimap", -1, POSITIVE),
    ("param-msk_desc-std_dwimap", -1, POSITIVE),
    ("param-msk_desc-mean_dwimap", 99, "exceed the range"),
    ("param-msk_desc-lsq_dwimap", 99, "exceed the range"),
    ("param-msd_desc-priorinfluence_dwimap", 1.01, PROBABILITY),
    ("param-msd_desc-priorinfluence_dwimap", -0.01, PROBABILITY),
    ("label-C1_desc-component_probseg", 1.01, PROBABILITY),
    ("label-C2_desc-component_probseg", -0.01, PROBABILITY),
    ("desc-unexpected_probseg", 1.01, PROBABILITY),
    ("desc-unexpected_probseg", -0.01, PROBABILITY),
    ("desc-noise_dwimap", np.inf, "infinite values"),
    ("param-msd_desc-mean_dwimap", np.nan, "1 voxels are NaN though their fit did not fail"),
]


@pytest.mark.parametrize(("name", "value", "says"), VALUES)
def test_one_impossible_voxel_is_found_even_if_the_manifest_agrees(
    out, command, name, value, says
):
    path = out / f"{MODEL}_{name}.nii.gz"
    data = nb.load(path).get_fdata(dtype=np.float32)
    assert np.isfinite(data[3, 3, 1])
    data[3, 3, 1] = value
    rewrite(path, data)
    write_manifest(out)
    code, problems = command()
    assert code == ExitCode.INVALID_OUTPUT
    assert named(problems) == {path.relative_to(out).as_posix()}
    assert says in "\n".join(problems)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(MSD, np.float64), (S0, np.int16), (STATUS, np.int16), (MASK, np.float32)],
)
def test_another_data_type_is_found_even_if_the_manifest_agrees(out, command, name, wrong):
    path = out / f"{name}.nii.gz"
    right = nb.load(path).get_data_dtype()
    rewrite(path, np.asanyarray(nb.load(path).dataobj).astype(wrong))
    write_manifest(out)
    code, problems = command()
    assert code == ExitCode.INVALID_OUTPUT
    assert problems == [f"{name}.nii.gz: the data type is {np.dtype(wrong)}, not {right}."]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the sidecar cannot be read"),
        (b'{"Units": ', "the sidecar cannot be read"),
        (b"\xff\xfe", "the sidecar cannot be read"),
        (b"[" * 10**5, "the sidecar cannot be read"),
        (b"[1, 2]", "the sidecar is not a JSON object"),
        (b"null", "the sidecar is not a JSON object"),
        (b'{"Sources": 5}', "5 is not of type 'array'"),
    ],
)
def test_a_sidecar_that_is_none_is_named_even_if_the_manifest_agrees(out, command, content, says):
    (out / f"{MSD}.json").write_bytes(content)
    write_manifest(out)
    code, problems = command()
    assert code == ExitCode.INVALID_OUTPUT
    assert named(problems) == {f"{MSD}.json"}
    assert says in "\n".join(problems)


def test_maps_under_the_name_of_another_are_found_even_if_the_manifest_agrees(out, command):
    for path in sorted((out / "sub-01" / "dwi").iterdir()):
        other = out / path.relative_to(out).as_posix().replace("sub-01", "sub-02")
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other)
    write_manifest(out)
    code, problems = command()
    assert code == ExitCode.INVALID_OUTPUT
    sidecars = [path.with_name(f"{path.name[:-7]}.json") for path in out.rglob("sub-02*.nii.gz")]
    assert problems == [
        f"{path.relative_to(out).as_posix()}: none of its Sources is of sub-02."
        for path in sorted(sidecars)
    ]


def test_a_sidecar_without_its_image_is_found_even_if_the_manifest_agrees(out, command):
    delete_a_map(out)
    write_manifest(out)
    assert command() == (ExitCode.INVALID_OUTPUT, [f"{MSD}.json: there is no image."])


@pytest.mark.parametrize(
    "links", ['{"raw": "http://["}', '{"raw": 5}', "[]", "[" * 10**5, '{"raw": "file:///a%00b"}']
)
def test_links_that_lead_nowhere_do_not_stop_the_comparison(out, command, links):
    path = out / "dataset_description.json"
    path.write_text(f'{{"Name": "x", "DatasetLinks": {links}}}')
    write_manifest(out)
    exceed_the_range(out)
    code, problems = command()
    assert code == ExitCode.INVALID_OUTPUT
    assert named(problems) == {f"{MSD}.nii.gz"}


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


def test_an_input_that_is_gone_is_a_warning(out, tmp_path):
    tiny_dataset(tmp_path / "empty")
    description = json.loads((out / "dataset_description.json").read_text())
    description["DatasetLinks"]["raw"] = "file:///nowhere"
    (out / "dataset_description.json").write_text(json.dumps(description))
    write_manifest(out)
    assert f"bids:raw:{STEM}_dwi.nii.gz" in examine(out).unreachable
    code, text, error = run(
        tmp_path / "empty", out, "participant", "-w", tmp_path / "w", "--validate-outputs"
    )
    assert code == ExitCode.OK, error
    assert text.startswith("Valid: ")
    assert re.search(r"Not found: 2 input images, such as bids:raw:\S+_mask\.nii\.gz", error)
    assert "Grids were compared with masks instead" in error


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
