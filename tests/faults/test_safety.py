"""What comes from files stays data: no code, no way out of the output folder, no persons."""

import html

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.cli.run import main
from bids_gmvae.exceptions import ExitCode
from tests.bids_tree import AFFINE, write_tree
from tests.faults.processes import command, finish
from tests.tiny import signals, tiny_dataset

#: What headers and sidecars hold of a person.
PERSON = "Doe^Jane"
#: What a page must show as text.
MARKUP = "<script>alert(1)</script>"
SIDECAR = {
    "EchoTime": 0.08,
    "PatientName": PERSON,
    "PatientID": PERSON,
    "PatientBirthDate": PERSON,
    "InstitutionName": PERSON,
    "PhaseEncodingDirection": MARKUP,
}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Maps of a run whose header and sidecar name a person, and of one that cannot be mapped."""
    root = tmp_path_factory.mktemp(f"safety {MARKUP.replace('/', '')}")
    constant = signals(2)
    constant[..., 3] = 7
    tiny_dataset(root / "bids", "sub-01/dwi/sub-01", "sub-02/dwi/sub-02")
    broken = {"sub-02/dwi/sub-02_dwi.nii.gz": constant}
    write_tree(root / "bids", {**broken, "sub-01/dwi/sub-01_dwi.json": SIDECAR})
    path = root / "bids/sub-01/dwi/sub-01_dwi.nii.gz"
    image = nb.Nifti1Image(signals(0), AFFINE)
    image.header["descrip"] = image.header["aux_file"] = PERSON.encode()
    image.header["intent_name"] = image.header["db_name"] = PERSON.encode()
    image.header.extensions.append(nb.nifti1.Nifti1Extension("comment", PERSON.encode()))
    nb.save(image, path)
    root.joinpath("bids/dataset_description.json").write_text(
        f'{{"Name": "{MARKUP}", "BIDSVersion": "1.10.0", "DatasetType": "raw"}}'
    )
    code, said = finish(command(root / "bids", root, "--debug", "-v"))
    assert code == ExitCode.RUN_FAILED, said
    code, more = finish([*command(root / "bids", root)[:5], "group", "-w", str(root / "work")])
    assert code == ExitCode.OK, more
    return root, said + more


@pytest.mark.slow
def test_nothing_of_a_person_reaches_outputs_logs_or_console(mapped):
    root, said = mapped
    assert PERSON not in said
    written = [path for path in (root / "out").rglob("*") if path.is_file()]
    assert {".html", ".log", ".txt", ".tsv", ".json", ".gz", ".toml"} <= {
        p.suffix for p in written
    }
    for path in written:
        assert PERSON.encode() not in content(path), path
        assert html.escape(PERSON).encode() not in content(path), path


def content(path):
    """Give the bytes of a file, of images those of header and voxels."""
    if path.name.endswith(".nii.gz"):
        image = nb.load(path)
        return image.header.binaryblock + np.asanyarray(image.dataobj).tobytes()
    return path.read_bytes()


@pytest.mark.slow
def test_pages_show_markup_of_files_and_folders_as_text(mapped):
    root, _ = mapped
    pages = list((root / "out").rglob("*.html"))
    assert {"sub-01.html", "sub-02.html", "group.html"} <= {page.name for page in pages}
    for page in pages:
        assert "<script>alert" not in page.read_text(encoding="utf-8"), page


@pytest.mark.slow
def test_everything_that_is_written_lies_in_the_output_folder(mapped):
    root, _ = mapped
    assert {path.name for path in root.iterdir()} == {"bids", "out", "work"}
    out = (root / "out").resolve()
    assert all(path.resolve().is_relative_to(out) for path in (root / "out").rglob("*"))


@pytest.mark.parametrize("label", ["../../escaped", "01/../../escaped", "..", "a/b", ""])
@pytest.mark.parametrize("flag", ["participant", "session", "acq"])
def test_labels_cannot_climb(tmp_path, capsys, flag, label):
    bids = tiny_dataset(tmp_path / "bids", "sub-01/dwi/sub-01")
    arguments = command(bids, tmp_path / "elsewhere")[3:]
    assert main([*arguments, f"--{flag}-label", label]) == ExitCode.BAD_COMMAND_LINE
    assert f"'{label}' is no BIDS label" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_whose_name_is_no_label_is_not_a_way_out(tmp_path):
    tiny_dataset(tmp_path / "bids", "sub-.../dwi/sub-...")
    code, said = finish([*command(tmp_path / "bids", tmp_path), "--dry-run"])
    assert code == ExitCode.NOTHING_ELIGIBLE, said
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"bids"}
