"""The BIDS validator, as a test's question to a dataset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def bids_errors(dataset: Path) -> list[dict]:
    """Give what the validator calls an error; skip the test where it is not installed."""
    # Beside the interpreter first: `make test` puts no environment on the PATH.
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    validator = shutil.which("bids-validator-deno", path=folders)
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([validator, dataset, "--format", "json"], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    assert bool(errors) == bool(done.returncode), done.stderr
    return errors
