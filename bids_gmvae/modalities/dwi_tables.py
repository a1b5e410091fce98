"""Gradient tables and echo times of a diffusion series, as an acquisition."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.gradients import fsl_to_image, read_b, read_bvals, read_bvecs, world_to_image
from bids_gmvae.io.images import open_image
from bids_gmvae.io.inheritance import Inheritance
from bids_gmvae.io.run import Run
from bids_gmvae.io.sources import preprocessed_by_qsiprep
from bids_gmvae.modalities.base import Issue

#: Nothing is left of a signal after so long, s: larger numbers are in other units.
LONGEST_ECHO_TIME = 5.0


@dataclass(frozen=True, eq=False)
class GradientTable:
    """Gradient table of a run, as read.

    Attributes
    ----------
    bvals : array of shape (n_volumes,)
        b-values, s/mm^2.
    bvecs : array of shape (n_volumes, 3)
        Unit vectors along the image axes, zero where there is no direction.
    bvals_path, bvecs_path : Path
        Files that they were read from.
    frame : str
        Where the directions come from, and their frame.
    issues : list of Issue
        Findings while reading.
    lengths : array of shape (n_volumes,)
        Lengths of the directions before they were brought to length 1.
    """

    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]
    bvals_path: Path
    bvecs_path: Path
    frame: str
    issues: list[Issue] = field(default_factory=list)
    lengths: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def read_acquisition(run: Run) -> tuple[Acquisition, str]:
    """Read the settings of the volumes of a run.

    Parameters
    ----------
    run : Run
        From `find_runs`.

    Returns
    -------
    acquisition : Acquisition
        Float64 columns ``bvals`` (s/mm^2), ``bvecs`` (unit vectors along the image axes, zero
        where the table has none) and, if the sidecar lists one per volume, ``echo_times`` (s).
    frame : str
        Where the directions come from.

    Raises
    ------
    InputError
        If a file is missing or unreadable, or the numbers of rows differ.
    """
    image = open_image(run.image)
    table = read_table(run, image.affine)
    return to_acquisition(run, table), table.frame


def read_table(run: Run, affine: NDArray[np.float64]) -> GradientTable:
    """Read the gradient table of a run: the one of MRtrix if there is one, else that of FSL.

    Parameters
    ----------
    run : Run
        From `find_runs`.
    affine : array of shape (4, 4)
        Of its image.

    Raises
    ------
    InputError
        If a file is missing or unreadable.
    """
    bval, bvec, b = (run.companions.get(kind) for kind in ("bval", "bvec", "b"))
    if b is not None:
        vectors, weights = read_b(b)
        bvals = read_bvals(bval) if bval else weights
        frame = f"{b.name} (MRtrix, world axes), rotated into image axes"
        table = GradientTable(bvals, world_to_image(vectors, affine), bval or b, b, frame)
        if len(bvals) == len(weights) and not np.allclose(bvals, weights, rtol=0.05, atol=20):
            row = int(np.argmax(np.abs(bvals - weights)))
            table.issues.append(
                Issue(
                    "warning",
                    "b_files_differ",
                    f"{table.bvals_path.name} and {b.name} must agree, but volume {row} has "
                    f"b = {bvals[row]:g} and {weights[row]:g} s/mm^2.",
                    f"{table.bvals_path.name} is used; check how the files were made.",
                )
            )
        return _unit(table)

    if bval is None:
        raise _missing(run, ".bval")
    if bvec is None:
        raise _missing(run, ".bvec")
    vectors, transposed = read_bvecs(bvec)
    issues = []
    if transposed:
        issues.append(
            Issue(
                "warning",
                "bvecs_transposed",
                f"{bvec} must have 3 rows, but has 3 columns; it is read as one row per volume.",
                "Transpose the file.",
            )
        )
    if preprocessed_by_qsiprep(run):
        frame = f"{bvec.name} (QSIPrep), taken as image axes"
        issues.append(
            Issue(
                "warning",
                "qsiprep_without_b",
                f"The directions of QSIPrep are read from its .b file, but {run.image.name} "
                f"has none; those of {bvec.name} are taken as image axes.",
                "Keep the .b files of QSIPrep beside the images.",
            )
        )
    else:
        vectors = fsl_to_image(vectors, affine)
        negated = "first axis negated, " if np.linalg.det(affine[:3, :3]) > 0 else ""
        frame = f"{bvec.name} (FSL), {negated}in image axes"
    return _unit(GradientTable(read_bvals(bval), vectors, bval, bvec, frame, issues))


def _missing(run: Run, extension: str) -> InputError:
    """Say why a run has no table: an ambiguity, or no file at all."""
    try:
        Inheritance(run.dataset_root).find(run.image, extension)
    except InputError as error:
        return error
    name = run.image.name.split(".")[0]
    return InputError(
        f"{run.image} needs a {extension} file, but none applies to it.",
        f"Add {name}{extension} beside the image, or one for all images in a folder above "
        "(BIDS inheritance principle).",
    )


def _unit(table: GradientTable) -> GradientTable:
    """Bring directions to unit length; those of no direction (zero, not finite) to zero."""
    lengths = np.linalg.norm(table.bvecs, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    vectors = np.where(usable[:, None], table.bvecs, 0.0)
    unit = vectors / np.where(usable, lengths, 1.0)[:, None]
    return replace(table, bvecs=unit, lengths=lengths)


def to_acquisition(run: Run, table: GradientTable) -> Acquisition:
    """Join a gradient table with the echo times of the sidecar.

    Parameters
    ----------
    run : Run
        From `find_runs`.
    table : GradientTable
        Its table.

    Raises
    ------
    InputError
        If the numbers of rows differ.
    """
    if len(table.bvals) != len(table.bvecs):
        raise InputError(
            f"There must be as many b-values as directions, but {table.bvals_path} has "
            f"{len(table.bvals)} and {table.bvecs_path} has {len(table.bvecs)}.",
            "Check that both belong to the same image.",
        )
    columns = {"bvals": torch.from_numpy(table.bvals), "bvecs": torch.from_numpy(table.bvecs)}
    echo_time = run.metadata.get("EchoTime")
    if isinstance(echo_time, list):
        try:
            columns["echo_times"] = torch.tensor(
                [float(value) for value in echo_time], dtype=torch.float64
            )
        except (TypeError, ValueError) as error:
            raise InputError(
                f"EchoTime of {run.image.name} must list numbers, but is {echo_time}.",
                "Correct the JSON sidecar.",
            ) from error
        if len(echo_time) != len(table.bvals):
            raise InputError(
                f"EchoTime of {run.image.name} must list one value per volume, but lists "
                f"{len(echo_time)} for {len(table.bvals)} b-values.",
                "Correct the JSON sidecar.",
            )
        possible = (columns["echo_times"] > 0) & (columns["echo_times"] < LONGEST_ECHO_TIME)
        if not possible.all():
            wrong = float(columns["echo_times"][~possible][0])
            raise InputError(
                f"EchoTime of {run.image.name} must be in seconds, but one is {wrong:g}.",
                "Correct the JSON sidecar.",
            )
    return Acquisition(**columns)
