"""Engines that are there, and the demo dataset mapped in them under the strictest conditions."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_gmvae.cli.simulate import main as simulate

#: A user nobody knows, without home and network, who can write what is mounted and nothing else.
STRICT = ("--read-only", "--network", "none", "--user", "12345:12345", "-e", "HOME=/nonexistent")

#: What to simulate: as in `make demo`, but smaller.
DEMO = ("--n-subjects", "2", "--scheme", "short", "--slices", "3", "--qsiprep-for", "02")


@dataclass(frozen=True)
class Container:
    """An image and the engine to run it."""

    engine: str
    image: str

    def run(self, *arguments, mounts=None, entrypoint=None, more=()):
        options = [*STRICT, *more]
        if self.engine.endswith("podman"):
            options.append("--read-only-tmpfs=false")  # else there is a /tmp, unlike in docker
        for folder, target in (mounts or {}).items():
            options += ["-v", f"{folder}:{target}"]
        if entrypoint:
            options += ["--entrypoint", entrypoint]
        return output_of(self.engine, "run", "--rm", *options, self.image, *arguments)

    def inspect(self, template):
        return output_of(self.engine, "image", "inspect", "--format", template, self.image)


@dataclass(frozen=True)
class Mapped:
    """Where two levels of the app were run."""

    out: Path
    work: Path


def output_of(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def digests(folder):
    """Give the SHA-256 of every image below a folder, by its relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.nii.gz"))
    }


def writable_by_all(folder):
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def succeeds(*command):
    return bool(shutil.which(command[0])) and not (
        subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.fixture(scope="session")
def container():
    """The image named by BIDS_GMVAE_IMAGE, in the engine named by ENGINE or the first there is."""
    engines = [os.environ["ENGINE"]] if os.environ.get("ENGINE") else ["docker", "podman"]
    engine = next((name for name in engines if succeeds(name, "info")), None)
    if engine is None:
        pytest.skip(f"no container engine answers: {' or '.join(engines)}")
    image = os.environ.get("BIDS_GMVAE_IMAGE", "bids_gmvae:cpu")
    if not succeeds(engine, "image", "inspect", image):
        pytest.skip(f"{engine} has no image {image}; `make image` builds it")
    return Container(engine, image)


@pytest.fixture(scope="session")
def bids(tmp_path_factory):
    """A demo dataset of two participants, one of them with QSIPrep's output."""
    folder = tmp_path_factory.mktemp("demo") / "bids"
    simulate([str(folder), *DEMO])
    return folder


@pytest.fixture(scope="session")
def mapped(container, bids, tmp_path_factory):
    """Map all participants, then tabulate them, under the strictest conditions."""
    folder = tmp_path_factory.mktemp("strict")
    result = Mapped(writable_by_all(folder / "out"), writable_by_all(folder / "work"))
    mounts = {bids: "/data:ro", result.out: "/out", result.work: "/work"}
    for level in ("participant", "group"):
        container.run("/data", "/out", level, "-w", "/work", mounts=mounts)
    # So that whoever runs the tests can remove the results.
    everyone_may = "-exec", "chmod", "a+rwX", "{}", "+"
    inside = "/out", "/work", "-mindepth", "1"
    container.run(*inside, *everyone_may, mounts=mounts, entrypoint="find")
    return result
