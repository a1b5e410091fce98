"""The command for simulated data."""

import signal
import subprocess
import sys
import time

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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--lesion", "unrecognized arguments: --lesion. Did you mean --lesions?"),
        ("--voxel-size 30", "voxel_size must be 1 to 20 mm, not 30."),
        ("--voxel-size 8 --slices 90", "The head has 21 slices of 8 mm, not 90."),
        ("--sessions a a", "Sessions must have different labels, but one is given twice."),
        ("--qsiprep-for 9", "Unknown participant '9'. Known: 01, 02."),
        ("--axes XYZ", "axes must name three directions such as LPS, not 'XYZ'."),
        ("--bvec pyproject.toml", "A bvec file needs its bval file, but none is given."),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, capsys, given, said) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "new"), *given.split()])
    assert capsys.readouterr().err.splitlines()[-1] == f"bids-gmvae-simulate: error: {said}"
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way_is_told(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "new"):
        assert main([str(out)]) == ExitCode.INVALID_INPUT
        told = f"bids-gmvae-simulate: {out} cannot be made a folder. Choose another.\n"
        assert capsys.readouterr().err == told


def test_ctrl_c_is_told_without_a_traceback(tmp_path) -> None:
    out = tmp_path / "large"
    code = f"import sys, bids_gmvae.cli.simulate as s; sys.exit(s.main([{str(out)!r}]))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True
    ) as process:
        while not out.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert said == f"bids-gmvae-simulate: Stopped; {out} is incomplete.\n"


def test_mistyped_name_is_answered_by_a_suggestion(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--scheme", "multishel"])
    assert "Did you mean 'multishell'?" in capsys.readouterr().err


def test_slices_are_a_number_or_all() -> None:
    parser = build_parser()
    assert parser.parse_args(["out", "--slices", "all"]).n_slices is None
    assert parser.parse_args(["out", "--slices", "4"]).n_slices == 4
