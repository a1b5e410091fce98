"""The voxels that a run gives to a prior of many participants, as a file.

They are what the likelihood needs and no more: shell means, or single volumes for directional
models, with the noise level. Where in the head a voxel lies is not kept.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bids_gmvae.acquisition import Acquisition, Shells
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.exceptions import GMVAEError, InputError
from bids_gmvae.io.atomic import atomic_write
from bids_gmvae.signal_models import get_signal_model

#: Version of the layout of the file.
TRAINING_FORMAT = 1

SUFFIX, DESC = "voxels", "training"


def to_content(problem: Problem) -> dict[str, Any]:
    """Give plain values and tensors; data in single precision, in which images are read."""
    return {
        "format": TRAINING_FORMAT,
        "signal_model": problem.signal_model.name,
        "noise_model": problem.noise_model,
        "averaged": problem.averaged,
        "data": problem.data.float().cpu(),
        "sigma": problem.sigma.float().cpu(),
        "counts": problem.counts.cpu(),
        "acquisition": _columns(problem.acquisition),
        "shells": {
            "index": problem.shells.index.cpu(),
            "counts": problem.shells.counts.cpu(),
            "acquisition": _columns(problem.shells.acquisition),
            "is_b0": problem.shells.is_b0.cpu(),
        },
    }


def from_content(content: Mapping[str, Any]) -> Problem:
    """Make the problem again, in double precision."""
    shells = content["shells"]
    return Problem(
        signal_model=get_signal_model(content["signal_model"]),
        noise_model=content["noise_model"],
        data=content["data"].double(),
        sigma=content["sigma"].double(),
        counts=content["counts"].double(),
        acquisition=Acquisition(**content["acquisition"]),
        shells=Shells(
            shells["index"],
            shells["counts"],
            Acquisition(**shells["acquisition"]),
            shells["is_b0"],
        ),
        averaged=content["averaged"],
    )


def write_training(path: Path, problem: Problem) -> Path:
    """Write the voxels; no code is pickled, and equal voxels give equal bytes."""
    return write_content(path, to_content(problem))


def read_training(path: Path) -> Problem:
    """Read what `write_training` wrote, without running any code from it.

    Raises
    ------
    InputError
        If the file is something else.
    """
    try:
        content = read_content(path)
        if content["format"] == TRAINING_FORMAT:
            return from_content(content)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise InputError(
            f"{path} does not hold the voxels of a run ({type(error).__name__}).",
            "Map the participant again.",
        ) from error
    raise InputError(
        f"{path} has the format {content['format']}, this version reads {TRAINING_FORMAT}.",
        "Map the participant again with this version.",
    )


def write_content(path: Path, content: Mapping[str, Any]) -> Path:
    """Write plain values and tensors, on disk when it has its name; no code is pickled."""
    # Given a path, torch would put its name into the archive: equal contents, other bytes.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return path


def read_content(path: Path) -> Any:
    """Read what `write_content` wrote, without running any code from it.

    Raises
    ------
    GMVAEError
        If it was changed or damaged since.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare its checksums
            damaged = archive.testzip() is not None
    except (EOFError, ValueError, zipfile.BadZipFile):
        damaged = True
    if damaged:
        raise GMVAEError(
            f"{path} was changed or damaged after it was written.",
            f"Remove the folder {path.parent} and run the command again.",
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _columns(acquisition: Acquisition) -> dict[str, torch.Tensor]:
    return {name: column.cpu() for name, column in acquisition.columns.items()}
