"""Checks of a diffusion series that need headers and tables only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.images import open_image
from bids_gmvae.io.inheritance import Inheritance
from bids_gmvae.io.run import Run
from bids_gmvae.masking import check_grid
from bids_gmvae.modalities.base import Issue
from bids_gmvae.modalities.dwi_headers import check_header, check_scale
from bids_gmvae.modalities.dwi_tables import GradientTable, read_table, to_acquisition
from bids_gmvae.voxels import Grid, load_image

#: Directions this far from unit length are rounded numbers; beyond the second, another quantity.
ROUNDING, NOT_A_DIRECTION = 1e-2, 0.1
#: Below this maximum (s/mm^2) b-values are in other units.
SMALLEST_MAXIMUM = 10.0
#: So are those above this one; the strongest gradients for small animals give a tenth of it.
LARGEST_MAXIMUM = 1e6
#: Fewest directions for estimates that hardly depend on orientation; Jones 2004,
#: https://doi.org/10.1002/mrm.20033
FEW_DIRECTIONS = 20


@dataclass(frozen=True, eq=False)
class CheckedRun:
    """What a run offers, and what is wrong with it.

    Attributes
    ----------
    acquisition : Acquisition or None
        Settings of all volumes; None if they cannot be read.
    selected : array of bool, shape (n_volumes,)
        Volumes within the b-values asked for; b0 images always are.
    frame : str
        Where the gradient directions come from, and their frame.
    shells : list of dict
        ``b_value``, ``n_volumes``, ``is_b0``, ``min``, ``max`` (s/mm^2) and ``echo_time`` (s, or
        None) of each shell of the selected volumes.
    issues : list of Issue
        Findings.
    """

    acquisition: Acquisition | None
    selected: NDArray[np.bool_]
    frame: str
    shells: list[dict[str, Any]]
    issues: list[Issue]

    @property
    def ok(self) -> bool:
        """Whether the run can be mapped: no finding is an error."""
        return not any(issue.severity == "error" for issue in self.issues)


def check(run: Run, settings: ModelSettings) -> CheckedRun:
    """Check headers and tables of a run, without reading its voxels.

    Parameters
    ----------
    run : Run
        From `find_runs`.
    settings : ModelSettings
        Uses the b0 threshold, the shell tolerance, the b-value limits, the smallest number of
        volumes, the mask and the noise map.

    Returns
    -------
    CheckedRun
        With every finding, errors included; nothing is raised for a bad file.
    """
    nothing = np.zeros(0, dtype=bool)
    try:
        image = open_image(run.image)
    except InputError as error:
        return CheckedRun(None, nothing, "", [], [_error("image", error)])
    issues = [*check_header(run.image, image), *_check_mask(run, image, settings.mask)]
    issues += [*_check_noise_map(image, settings.noise_map), *_check_sidecar(run)]
    if len(image.shape) != 4 or image.shape[3] < 2:
        text = (
            f"A diffusion series must have 4 dimensions, but {run.image} has the shape "
            f"{image.shape}."
        )
        hint = "A single volume cannot be mapped; exclude it with --bids-filter-file."
        return CheckedRun(
            None, nothing, "", [], [*issues, Issue("error", "not_a_series", text, hint)]
        )
    try:
        table = read_table(run, image.affine)
        acquisition = to_acquisition(run, table)
    except InputError as error:
        return CheckedRun(None, nothing, "", [], [*issues, _error("gradients", error)])

    issues += table.issues
    issues += _check_counts(run, image.shape[3], table, acquisition)
    if any(issue.code == "volume_count" for issue in issues):
        return CheckedRun(None, nothing, table.frame, [], issues)
    selected = _select(table.bvals, settings)
    issues += _check_bvals(table, settings.b0_threshold)
    issues += _check_bvecs(table, selected, settings.b0_threshold)
    shells: list[dict[str, Any]] = []
    if np.isfinite(table.bvals).all():
        shells = _describe_shells(run, acquisition, selected, settings)
        issues += _check_sampling(run, shells, selected, settings)
    return CheckedRun(acquisition, selected, table.frame, shells, issues)


def _error(code: str, error: InputError) -> Issue:
    return Issue("error", code, error.message, error.hint)


def _check_mask(run: Run, image: nb.Nifti1Image, mask: str) -> list[Issue]:
    path = run.companions.get("mask") if mask == "auto" else Path(mask)
    if path is None:
        return [
            Issue(
                "info",
                "no_mask",
                f"No brain mask was found for {run.image.name}; one is computed from the b0 "
                "images.",
                "Check it in the report; give another with --mask PATH.",
            )
        ]
    try:
        check_grid(path, Grid.of(image))
    except InputError as error:
        return [_error("mask", error)]
    return []


def _check_noise_map(image: nb.Nifti1Image, noise_map: str) -> list[Issue]:
    if noise_map in ("auto", "global"):
        return []
    path = Path(noise_map)
    try:
        check_grid(path, Grid.of(image), what="noise map", option="--noise-map")
    except InputError as error:
        return [_error("noise_map", error)]
    return check_scale(path, load_image(path))


def _check_sidecar(run: Run) -> list[Issue]:
    try:
        Inheritance(run.dataset_root).metadata(run.image)
    except InputError as error:
        return [_error("sidecar", error)]
    return []


def _check_counts(
    run: Run, n_volumes: int, table: GradientTable, acquisition: Acquisition
) -> list[Issue]:
    if n_volumes == len(acquisition):
        return []
    return [
        Issue(
            "error",
            "volume_count",
            f"There must be as many b-values as volumes, but {table.bvals_path} has "
            f"{len(acquisition)} and {run.image} has {n_volumes} volumes.",
            "Check that the table belongs to the image and that the image is complete.",
        )
    ]


def _check_bvals(table: GradientTable, b0_threshold: float) -> list[Issue]:
    bvals, path = table.bvals, table.bvals_path
    bad = ~np.isfinite(bvals)
    if bad.any():
        row = _first(bad)
        text = f"b-values must be finite, but volume {row} of {path} has {bvals[row]:g}."
        return [Issue("error", "bvals_not_finite", text, "Correct the file.")]
    if (bvals < 0).any():
        row = _first(bvals < 0)
        text = f"b-values must not be negative, but volume {row} of {path} has {bvals[row]:g}."
        return [Issue("error", "bvals_negative", text, "Correct the file.")]
    top = bvals.max()
    if 0 < top < SMALLEST_MAXIMUM:
        text = (
            f"b-values must be in s/mm^2, but the largest of {path} is {top:g}, which looks "
            "like ms/um^2."
        )
        return [Issue("error", "bvals_scaled", text, "Multiply them by 1000.")]
    if top > LARGEST_MAXIMUM:
        text = (
            f"b-values must be in s/mm^2, but the largest of {path} is {top:g}, which looks "
            "like s/m^2."
        )
        return [Issue("error", "bvals_scaled", text, "Divide them by 1e6.")]
    if top <= b0_threshold:
        text = (
            f"A series needs volumes with b > {b0_threshold:g} s/mm^2, but the largest b-value "
            f"of {path} is {top:g}."
        )
        hint = "Exclude the run with --bids-filter-file, or lower --b0-threshold."
        return [Issue("error", "no_weighting", text, hint)]
    lowest = bvals.min()
    if lowest > b0_threshold:
        text = (
            f"A series needs a volume with b <= {b0_threshold:g} s/mm^2, but the smallest "
            f"b-value of {path} is {lowest:g}."
        )
        hint = (
            "Add the b0 images to the series; if the lowest shell is meant to serve as b0, "
            f"use --b0-threshold {np.ceil(lowest):g}."
        )
        return [Issue("error", "no_b0", text, hint)]
    return []


def _check_bvecs(
    table: GradientTable, selected: NDArray[np.bool_], b0_threshold: float
) -> list[Issue]:
    weighted = selected & (table.bvals > b0_threshold)
    missing = weighted & ~table.bvecs.any(axis=1)
    if missing.any():
        row = _first(missing)
        text = (
            f"Each volume with b > {b0_threshold:g} s/mm^2 needs a direction, but "
            f"{int(missing.sum())} have none in {table.bvecs_path}, the first of them volume "
            f"{row} (counted from 0; b = {table.bvals[row]:g})."
        )
        hint = "Correct the table, or remove these volumes (scanner trace images) from the series."
        return [Issue("error", "bvecs_zero", text, hint)]
    off = np.where(weighted, np.abs(table.lengths - 1), 0.0)
    row = int(off.argmax())
    if off[row] <= ROUNDING:
        return []
    text = (
        f"Directions must have length 1, but {int((off > ROUNDING).sum())} of "
        f"{table.bvecs_path} have not; that of volume {row} (counted from 0) has length "
        f"{table.lengths[row]:.4g}."
    )
    if off[row] <= NOT_A_DIRECTION:
        hint = "They are brought to length 1; write more digits."
        return [Issue("warning", "bvecs_length", text, hint)]
    hint = "If the length encodes the b-value, write b-values and unit vectors instead."
    return [Issue("error", "bvecs_length", text, hint)]


def _select(bvals: NDArray[np.float64], settings: ModelSettings) -> NDArray[np.bool_]:
    lowest = -np.inf if settings.min_b is None else settings.min_b
    highest = np.inf if settings.max_b is None else settings.max_b
    return (bvals <= settings.b0_threshold) | ((bvals >= lowest) & (bvals <= highest))


def _describe_shells(
    run: Run, acquisition: Acquisition, selected: NDArray[np.bool_], settings: ModelSettings
) -> list[dict[str, Any]]:
    used = acquisition.select(torch.from_numpy(selected))
    if not len(used):
        return []
    shells = find_shells(
        used, b0_threshold=settings.b0_threshold, shell_tolerance=settings.shell_tolerance
    )
    single = run.metadata.get("EchoTime")
    single = float(single) if isinstance(single, int | float) else None
    described = []
    for number in range(len(shells)):
        members = used.bvals[shells.index == number]
        echo_times = shells.acquisition.columns.get("echo_times")
        described.append(
            {
                "b_value": round(float(shells.acquisition.bvals[number]), 1),
                "n_volumes": int(shells.counts[number]),
                "is_b0": bool(shells.is_b0[number]),
                "min": float(members.min()),
                "max": float(members.max()),
                "echo_time": single if echo_times is None else float(echo_times[number]),
            }
        )
    return described


def _check_sampling(
    run: Run,
    shells: Sequence[dict[str, Any]],
    selected: NDArray[np.bool_],
    settings: ModelSettings,
) -> list[Issue]:
    issues = []
    n_selected = int(selected.sum())
    if n_selected < settings.min_volumes:
        issues.append(
            Issue(
                "error",
                "too_few_volumes",
                f"At least {settings.min_volumes} volumes are needed, but {run.image} has "
                f"{n_selected} within the b-values asked for.",
                "Exclude the run, or change --min-volumes, --min-b or --max-b.",
            )
        )
    weighted = [shell for shell in shells if not shell["is_b0"]]
    if not weighted and not selected.all():
        text = (
            f"Volumes with b > {settings.b0_threshold:g} s/mm^2 are needed, but the b-value "
            f"limits leave none of {run.image}."
        )
        issues.append(Issue("error", "no_weighting", text, "Change --min-b or --max-b."))
    if len(weighted) == 1 and weighted[0]["n_volumes"] < FEW_DIRECTIONS:
        text = (
            f"Maps of a fibre need some {FEW_DIRECTIONS} directions to be reliable, but "
            f"{run.image.name} has {weighted[0]['n_volumes']} weighted volumes, in one shell."
        )
        hint = "Expect wide sd maps and values that depend on the orientation of the head."
        issues.append(Issue("warning", "few_directions", text, hint))
    counts = sorted(shell["n_volumes"] for shell in weighted)
    top = max((shell["b_value"] for shell in weighted), default=0.0)
    # IVIM also has many b-values with few volumes each, but low ones.
    if len(weighted) >= 8 and top >= 2000 and counts[len(counts) // 2] < 15:
        issues.append(
            Issue(
                "warning",
                "not_shelled",
                f"Averages over directions need shells, but {run.image.name} has "
                f"{len(weighted)} b-values with as few as {counts[0]} volumes, like a grid "
                "(DSI) sampling.",
                "Directional averages are poor; prefer a directional signal model.",
            )
        )
    return issues


def _first(condition: NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(condition)[0])
