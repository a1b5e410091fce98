import argparse
import json
import subprocess
import sys

import pytest

from bids_gmvae import __version__
from bids_gmvae.cli import options
from bids_gmvae.cli.parser import build_parser, parse_args
from bids_gmvae.exceptions import ExitCode


@pytest.fixture(scope="module")
def descriptor(repository):
    return json.loads((repository / "boutiques.json").read_text())


@pytest.fixture(scope="module")
def inputs(descriptor):
    """The inputs of the descriptor by flag, without the positional ones."""
    return {
        item["command-line-flag"]: item
        for item in descriptor["inputs"]
        if "command-line-flag" in item
    }


def optional_actions():
    """The options of the parser by their first long flag; those that only show text left out."""
    shown = [item for item in build_parser()._actions if item.help != argparse.SUPPRESS]
    return {
        next(flag for flag in action.option_strings if flag.startswith("--")): action
        for action in shown
        if action.option_strings and action.dest not in ("help", "version")
    }


def test_every_option_is_described_and_nothing_else(inputs):
    assert set(inputs) == set(optional_actions())


@pytest.mark.parametrize("flag", optional_actions())
def test_an_option_is_described_as_the_parser_takes_it(inputs, flag):
    action, item = optional_actions()[flag], inputs[flag]
    assert item["optional"]
    assert item.get("list", False) == (action.nargs == "+")
    assert (item["type"] == "Flag") == (action.nargs == 0)
    assert (item["type"] == "Number") == (action.metavar in ("N", "B", "FRACTION"))
    if action.choices is not None:
        assert item["value-choices"] == list(action.choices)
    help_text = action.help.replace("%%", "%")
    assert item["description"] == help_text[0].upper() + help_text[1:] + "."


def test_names_of_models_and_estimators_are_offered(inputs):
    assert inputs["--signal-model"]["value-choices"] == ["auto", *options.SIGNAL_MODELS]
    assert inputs["--estimator"]["value-choices"] == list(options.ESTIMATORS)


def test_every_input_is_on_the_command_line(descriptor):
    keys = {item["value-key"] for item in descriptor["inputs"]}
    words = descriptor["command-line"].split("bids-gmvae ")[1].split()
    assert set(words) == keys
    assert len(words) == len(keys)


def test_error_codes_are_those_of_the_app(descriptor):
    found = {item["code"]: item["description"] for item in descriptor["error-codes"]}
    expected = {
        int(code): text[0].upper() + text[1:] + "."
        for code, text in options.EXIT_CODES.items()
        if code != ExitCode.OK
    }
    assert found == expected


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


def bosh(*arguments):
    # It raises where its console script would exit with an error.
    script = "import sys; from boutiques.bosh import bosh; bosh(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
