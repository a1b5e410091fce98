"""What comes from files stays data: no code, no way out of the output folder, no persons."""

import gzip
import html
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.cli.run import main
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.io.sources import dataset_key
from tests.bids_tree import AFFINE, prefixed, write_tree
from tests.faults import calls, fits
from tests.faults.bench import Bench
from tests.faults.processes import command, finish
from tests.report.reading import assert_harmless, drawings
from tests.tiny import SHAPE, signals, tiny_dataset, tiny_mask, tiny_run

#: What headers and sidecars hold of a person.
PERSON = "Doe^Jane"
#: What a page must show as text. No folder or file can hold a slash.
MARKUP = "<script>alert(1)</script>"
ATTRIBUTE = '"onerror="alert(1)'
CLOSING = "</style></title><img src=x onerror=alert(1)>"
FOLDER = f"{MARKUP}{ATTRIBUTE}".replace("/", "")
SIDECAR = {
    "EchoTime": 0.08,
    "PatientName": PERSON,
    "PatientID": PERSON,
    "PatientBirthDate": PERSON,
    "InstitutionName": PERSON,
    "PhaseEncodingDirection": MARKUP,
}
#: What is a number in a table of gradients, if not this.
WORDS = (MARKUP, ATTRIBUTE, "</style></title>")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Maps of runs whose files name a person and hold markup, and of some that have no maps."""
    root = tmp_path_factory.mktemp(f"safety {FOLDER}")
    bids = root / "bids"
    constant = signals(2)
    constant[..., 3] = 7
    words = [f"sub-{number:02d}/dwi/sub-{number:02d}" for number in range(3, 3 + len(WORDS))]
    tiny_dataset(bids, "sub-01/dwi/sub-01", "sub-02/dwi/sub-02", *words)
    tables = {f"{stem}_dwi.bval": word for stem, word in zip(words, WORDS, strict=True)}
    broken = {"sub-02/dwi/sub-02_dwi.nii.gz": constant, **tables}
    described = {"Name": MARKUP + CLOSING, "BIDSVersion": "1.10.0"}
    of_folder = {"DatasetType": "derivative", "GeneratedBy": [{"Name": MARKUP}]} | described
    write_tree(
        bids,
        {
            **broken,
            "sub-01/dwi/sub-01_dwi.json": SIDECAR,
            "dataset_description.json": {"DatasetType": "raw"} | described,
            f"derivatives/{FOLDER}/dataset_description.json": of_folder,
            **prefixed(f"derivatives/{FOLDER}", tiny_run("sub-09/dwi/sub-09_desc-preproc", 9)),
            **tiny_mask("sub-09/dwi/sub-09"),
            f"atlas/{FOLDER}_dseg.nii.gz": np.ones(SHAPE, np.uint8),
            f"atlas/{FOLDER}_dseg.tsv": f"index\tname\n1\t{CLOSING}\n",
        },
    )
    path = bids / "sub-01/dwi/sub-01_dwi.nii.gz"
    image = nb.Nifti1Image(signals(0), AFFINE)
    image.header["descrip"] = image.header["aux_file"] = PERSON.encode()
    image.header["intent_name"] = image.header["db_name"] = PERSON.encode()
    image.header.extensions.append(nb.nifti1.Nifti1Extension("comment", PERSON.encode()))
    nb.save(image, path)
    code, said = finish(command(bids, root, "--debug", "-v"))
    assert code == ExitCode.RUN_FAILED, said
    group = ["group", "-w", str(root / "work"), "--atlas", f"{bids}/atlas/{FOLDER}_dseg.nii.gz"]
    code, more = finish([*command(bids, root)[:5], *group])
    assert code == ExitCode.OK, more
    return root, said + more


@pytest.mark.slow
def test_nothing_of_a_person_reaches_outputs_logs_or_console(mapped):
    root, said = mapped
    assert PERSON not in said
    source = root / "bids/sub-01/dwi/sub-01_dwi.nii.gz"
    assert content(source).count(PERSON.encode()) == 5
    written = [path for path in (root / "out").rglob("*") if path.is_file()]
    assert {".html", ".log", ".txt", ".tsv", ".json", ".gz", ".toml"} <= {
        p.suffix for p in written
    }
    for path in written:
        assert PERSON.encode() not in content(path), path
        assert html.escape(PERSON).encode() not in content(path), path


def content(path):
    """Give all bytes of a file; of a compressed one, those that it stands for."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.slow
def test_pages_show_markup_of_files_and_folders_as_text(mapped):
    root, _ = mapped
    pages = {path.name: path.read_text(encoding="utf-8") for path in root.glob("out/**/*.html")}
    shown = {name: assert_harmless(page) for name, page in pages.items() if name[0] != "C"}
    for number, word in enumerate(WORDS, start=3):
        assert f"column 1 is '{word}'" in shown[f"sub-{number:02d}.html"]
    assert f"from {dataset_key(FOLDER)}" in shown["sub-09.html"]
    assert {"sub-01.html", "sub-02.html"} <= shown.keys()
    assert FOLDER in shown["group.html"]
    # Letters of a drawing are lines; what they say is a comment beside.
    (drawn, *_) = [text for text in drawings(pages["group.html"]) if "&lt;/style" in text]
    assert "<img" not in drawn
    assert "onerror" not in pages["CITATION.html"]


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


#: Files that, were they unpacked or obeyed, would leave others elsewhere.
CLIMBING = [
    case
    for case in (*fits.CASES, *calls.CASES)
    if case.name in ("a fit whose archive climbs", "a plugin file with code")
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("climbing"))


@pytest.mark.parametrize("case", CLIMBING, ids=[case.name for case in CLIMBING])
def test_no_file_makes_another_elsewhere(case, bench):
    place, arguments = bench.prepare(case)
    here, temporary = place.root / "a/here", place.root / "a/temporary"
    here.mkdir(parents=True)
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bids_gmvae", *arguments],
        cwd=here, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == case.code, done.stderr
    assert re.search(case.says, done.stderr)
    around = {*bench.root.parents, Path.cwd(), Path(tempfile.gettempdir())}
    found = [*bench.root.rglob("*"), *(path for folder in around for path in folder.iterdir())]
    assert [path for path in found if path.name.startswith(("escaped", "pwned"))] == []
