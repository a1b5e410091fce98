import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bids_gmvae import __version__
from bids_gmvae.cli.descriptor import SHOWING, build_descriptor
from bids_gmvae.cli.parser import build_parser, parse_args
from bids_gmvae.exceptions import ExitCode
from tests.tiny import tiny_dataset


@pytest.fixture(scope="module")
def descriptor(repository):
    return json.loads((repository / "boutiques.json").read_text())


def test_the_descriptor_is_that_of_the_parser(descriptor):
    assert descriptor == build_descriptor(), "run `make descriptor`"


def test_every_option_is_described(descriptor):
    flags = {item.get("command-line-flag") for item in descriptor["inputs"]}
    for action in build_parser()._actions:
        if action.help != argparse.SUPPRESS and action.dest not in SHOWING:
            assert not action.option_strings or flags & set(action.option_strings)


def test_numbers_are_described_as_the_parser_reads_them(descriptor):
    for item in descriptor["inputs"]:
        if item["type"] == "Number":
            action = build_parser()._option_string_actions[item["command-line-flag"]]
            value = next(
                value for text in ("3", "0.5") if (value := attempt(action.type, text)) is not None
            )
            assert isinstance(value, int) == item["integer"], item["id"]


def test_error_codes_are_those_of_the_app(descriptor):
    assert {item["code"] for item in descriptor["error-codes"]} == set(ExitCode) - {ExitCode.OK}


def test_the_version_is_that_of_the_package(descriptor, repository):
    assert descriptor["tool-version"] == __version__
    assert descriptor["container-image"]["image"].endswith(f":{__version__}")
    assert f"version: {__version__}\n" in (repository / "CITATION.cff").read_text()


@pytest.mark.parametrize("arguments", [[], ["--bids"]], ids=["schema", "bids"])
def test_boutiques_accepts_the_descriptor(repository, arguments):
    pytest.importorskip("boutiques")
    assert bosh("validate", *arguments, repository / "boutiques.json").returncode == 0


def test_boutiques_makes_a_command_line_that_the_parser_takes(repository, tmp_path):
    pytest.importorskip("boutiques")
    (tmp_path / "bids").mkdir()
    invocation = {
        "bids_dir": str(tmp_path / "bids"),
        "output_dir_name": str(tmp_path / "out"),
        "analysis_level": "participant",
        "participant_label": ["01", "02"],
        "signal_model": ["msdki"],
        "min_b": 5,
        "dry_run": "json",
        "sloppy": True,
    }
    path = tmp_path / "invocation.json"
    path.write_text(json.dumps(invocation))
    done = bosh("exec", "simulate", "-i", path, repository / "boutiques.json")
    command = done.stdout.strip().splitlines()[-1].split("bids-gmvae ")[1]
    settings = parse_args(command.split())
    assert settings.selection.participant_label == ("01", "02")
    assert settings.execution.dry_run == "json"


@pytest.mark.slow
def test_boutiques_runs_the_app(repository, tmp_path, monkeypatch):
    pytest.importorskip("boutiques")
    out = tmp_path / "out"
    invocation = {
        "bids_dir": str(tiny_dataset(tmp_path / "bids", "sub-01/dwi/sub-01")),
        "output_dir_name": str(out),
        "analysis_level": "participant",
        "estimator": "lsq",
        "work_dir": str(tmp_path / "work"),
    }
    path = tmp_path / "invocation.json"
    path.write_text(json.dumps(invocation))
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    options = "--no-container", "--skip-data-collection"
    bosh("exec", "launch", *options, repository / "boutiques.json", path)
    # Its exit status does not tell whether the app succeeded.
    assert list(out.glob("sub-01/dwi/*_param-msd_desc-mean_dwimap.nii.gz"))


def attempt(read, text):
    try:
        return read(text)
    except argparse.ArgumentTypeError:
        return None


def bosh(*arguments):
    # It raises where its console script would exit with an error.
    script = "import sys; from boutiques.bosh import bosh; bosh(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
