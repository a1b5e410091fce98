"""The environment of the process and its children, set before anything heavy is imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bids_gmvae.config import RunSettings

#: Folder of caches within the work directory, which may hold somebody's own.
CACHE = "gmvae_cache"

#: Set where the container image is built.
IN_CONTAINER = "BIDS_GMVAE_CONTAINER_TYPE"

NIPYPE_CONFIG = """\
[execution]
check_version = false
hash_method = content
[logging]
workflow_level = INFO
[monitoring]
enabled = {monitor}
sample_frequency = 1
"""


def prepare_environment(settings: RunSettings, cache: Path) -> None:
    """Keep caches in the work directory, telemetry off, and threads as many as asked for.

    Parameters
    ----------
    settings : RunSettings
        Threads and resource monitor.
    cache : Path
        Where libraries may write.
    """
    environment = os.environ
    nipype = cache / "nipype"
    nipype.mkdir(parents=True, exist_ok=True)
    # A file, because workers read it too when they import Nipype.
    monitor = str(settings.execution.resource_monitor).lower()
    (nipype / "nipype.cfg").write_text(NIPYPE_CONFIG.format(monitor=monitor), encoding="utf-8")
    environment.update(
        NIPYPE_CONFIG_DIR=str(nipype),
        MPLBACKEND="agg",  # whatever the user draws with, as in a notebook
        MPLCONFIGDIR=str(cache / "matplotlib"),
        NIPYPE_NO_ET="1",
        NO_ET="1",
    )
    environment.setdefault("NUMBA_CACHE_DIR", str(_user_cache(cache) / "numba"))
    _keep_temporary_files(cache / "tmp")
    if not os.path.isdir(os.path.expanduser("~/.cache/templateflow")):
        # Else templates would be downloaded into HOME.
        environment.setdefault("TEMPLATEFLOW_HOME", str(cache / "templateflow"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(settings.compute.omp_nthreads)
    # Absent in containers; Nipype's SLURM plugin and crash files want it.
    environment.setdefault("LOGNAME", environment.get("USER", f"uid{os.getuid()}"))
    if not os.access(Path("~").expanduser(), os.R_OK | os.W_OK | os.X_OK):
        # pybids looks for a file in HOME, and dies if it may not.
        home = cache / "home"
        home.mkdir(exist_ok=True)
        environment["HOME"] = str(home)
        environment.setdefault("XDG_CACHE_HOME", str(cache))


def _keep_temporary_files(otherwise: Path) -> None:
    """Give temporary files a place where there is none, as in a container without /tmp."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        otherwise.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(otherwise)


def _user_cache(otherwise: Path) -> Path:
    """Find where compiled code outlives the work directory: compiling takes seconds."""
    if IN_CONTAINER in os.environ:  # the home of a container ends with it
        return otherwise
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = caches / "bids_gmvae"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a HOME that cannot be written, or none
        return otherwise
    return folder if os.access(folder, os.W_OK | os.X_OK) else otherwise
