"""The Boutiques descriptor of the app, made from its parser.

``python -m bids_gmvae.cli.descriptor`` prints what `boutiques.json` must hold.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from bids_gmvae import __version__
from bids_gmvae.cli import options
from bids_gmvae.cli.parser import build_parser
from bids_gmvae.exceptions import ExitCode

#: Options whose values are whole numbers, or numbers, by their placeholder.
NUMBERS = {"N": True, "B": False, "FRACTION": False, "MINUTES": False}

#: Placeholders of options that take a path and nothing else.
PATHS = ("FILE", "DIR", "BIDS_DIR")

#: `bosh validate --bids` wants these first on the command line.
FIRST = ("bids_dir", "output_dir", "analysis_level", "participant_label", "session_label")

#: Options that only show text.
SHOWING = ("help", "version")

CHOICES = {
    "signal_model": ("auto", *options.SIGNAL_MODELS),
    "estimator": options.ESTIMATORS,
}


def build_descriptor() -> dict[str, Any]:
    """Describe the command line in schema 0.5 of Boutiques."""
    shown = {
        action.dest: action
        for action in build_parser()._actions
        if action.help != argparse.SUPPRESS and action.dest not in SHOWING
    }
    ordered = {name: shown[name] for name in FIRST} | shown
    inputs = [_input(action) for action in ordered.values()]
    # BIDS Apps must take the output folder by name and, alternatively, as an existing folder.
    inputs.append(
        {
            "id": "output_dir_file",
            "name": "Output directory (existing)",
            "description": "Derivative dataset to add to.",
            "type": "File",
            "optional": True,
            "value-key": "[OUTPUT_DIR]",
        }
    )
    keys = dict.fromkeys(item["value-key"] for item in inputs)
    return {
        "name": "bids_gmvae",
        "tool-version": __version__,
        "schema-version": "0.5",
        "author": "bids_gmvae contributors",
        "description": "Quantitative MRI parameter maps with uncertainty, as a BIDS App.",
        "tags": {"domain": ["neuroinformatics", "bids", "mri", "dwi"]},
        "command-line": f"mkdir -p [OUTPUT_DIR]; bids-gmvae {' '.join(keys)}",
        "container-image": {
            "type": "docker",
            "image": f"bids_gmvae:{__version__}",
            "index": "docker.io",
        },
        "inputs": inputs,
        "groups": [
            {
                "id": "output_dir_types",
                "name": "Output directory",
                "members": ["output_dir_name", "output_dir_file"],
                "mutually-exclusive": True,
                "one-is-required": True,
            }
        ],
        "output-files": [
            {
                "id": "output_dir",
                "name": "Derivative dataset",
                "path-template": "[OUTPUT_DIR]",
                "optional": False,
            }
        ],
        "error-codes": [
            {"code": int(code), "description": _sentence(text)}
            for code, text in options.EXIT_CODES.items()
            if code != ExitCode.OK
        ],
        "suggested-resources": {"cpu-cores": 4, "ram": 8, "walltime-estimate": 3600},
    }


def _input(action: argparse.Action) -> dict[str, Any]:
    flag = next((text for text in action.option_strings if text.startswith("--")), None)
    name = flag.removeprefix("--").replace("-", "_") if flag else action.dest
    described: dict[str, Any] = {
        "id": "output_dir_name" if name == "output_dir" else name,
        "name": name.replace("_", " ").capitalize(),
        "description": _sentence((action.help or "").replace("%%", "%")),
        "type": _type(action),
        "optional": flag is not None or name == "output_dir",
        "value-key": f"[{name.upper()}]",
    }
    if flag:
        described["command-line-flag"] = flag
    if action.nargs == "+":
        described["list"] = True
    if action.nargs == "?":
        described["command-line-flag-separator"] = "="
    if described["type"] == "Number":
        described["integer"] = NUMBERS[str(action.metavar)]
    choices = action.choices or CHOICES.get(action.dest)
    if choices:
        described["value-choices"] = list(choices)
    return described


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "Flag"
    if action.metavar in NUMBERS:
        return "Number"
    return "File" if action.metavar in PATHS else "String"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


if __name__ == "__main__":
    print(json.dumps(build_descriptor(), indent=2))
