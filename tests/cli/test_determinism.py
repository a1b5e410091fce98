"""Same seed, same bytes: however many processes compute, and however they start."""

import hashlib
import json
import subprocess
import sys

import pytest

from bids_gmvae.exceptions import ExitCode
from tests.tiny import tiny_dataset

#: Two participants, so that two processes fit at the same time.
STEMS = ("sub-01/dwi/sub-01", "sub-02/dwi/sub-02")

SPAWN = {"plugin": "MultiProc", "plugin_args": {"n_procs": 2, "mp_context": "spawn"}}


def digests(folder):
    """Give a checksum of every file but the logs."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "logs"
    }


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """The same data mapped in a process, in two, and in two that start from nothing."""
    root = tmp_path_factory.mktemp("determinism")
    tiny_dataset(root / "bids", *STEMS)
    plugin = root / "spawn.json"
    plugin.write_text(json.dumps(SPAWN))
    ways = {
        "one": ("--nprocs", "1"),
        "two": ("--nprocs", "2"),
        "spawned": ("--nprocs", "2", "--use-plugin", plugin),
    }
    for name, way in ways.items():
        done = subprocess.run(
            [
                sys.executable, "-m", "bids_gmvae", root / "bids", root / name, "participant",
                "-w", root / f"work_{name}", "--posterior-samples", "2", *way,
            ],
            capture_output=True,
            text=True,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == ExitCode.OK, done.stderr
    return root


@pytest.mark.parametrize("way", ["two", "spawned"])
def test_bytes_do_not_depend_on_processes(mapped, way):
    one = digests(mapped / "one")
    assert sum(name.endswith(".nii.gz") for name in one) > 40
    assert digests(mapped / way) == one
