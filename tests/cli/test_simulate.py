"""The command for simulated data."""

import subprocess
import sys

import pytest

from bids_gmvae.cli.simulate import POPULATIONS, build_parser, main
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.simulation import tissues


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; import bids_gmvae.cli.simulate as s; s.build_parser().format_help(); "
        "assert not {'torch', 'numpy', 'nibabel', 'nipype', 'dipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_populations_are_those_of_the_registry() -> None:
    assert set(POPULATIONS) == set(tissues.POPULATIONS)


def test_every_option_tells_its_default_or_is_a_flag() -> None:
    for action in build_parser()._actions:
        if action.option_strings and action.nargs != 0:
            assert "(default: " in (action.help or ""), action.option_strings


def test_dataset_is_written_and_found(tmp_path, capsys) -> None:
    out = tmp_path / "demo"
    size = ["--n-subjects", "1", "--voxel-size", "8", "--slices", "2", "--scheme", "short"]
    assert main([str(out), *size, "--sessions", "pre"]) == ExitCode.OK
    assert (out / "sub-01/ses-pre/dwi/sub-01_ses-pre_dwi.nii.gz").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/1] sub-01"
    assert lines[-2:] == [f"Dataset: {out}", f"Truth:   {out}/derivatives/truth"]


def test_error_is_one_sentence_and_an_exit_code(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert main([str(tmp_path)]) == ExitCode.INVALID_INPUT
    captured = capsys.readouterr().err
    assert "is not empty. Choose a new folder" in captured
    assert "Traceback" not in captured


def test_mistyped_name_is_answered_by_a_suggestion(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--scheme", "multishel"])
    assert "Did you mean 'multishell'?" in capsys.readouterr().err


def test_slices_are_a_number_or_all() -> None:
    parser = build_parser()
    assert parser.parse_args(["out", "--slices", "all"]).n_slices is None
    assert parser.parse_args(["out", "--slices", "4"]).n_slices == 4
