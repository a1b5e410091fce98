"""What the numbers of a run mean, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bids_gmvae.io.result import RunResult
from bids_gmvae.report import facts

#: From these on a number becomes a finding.
MANY_FAILED = 0.01
MANY_AT_BOUND = 0.10
MANY_UNIDENTIFIED = 0.20
MANY_REMOVED = 0.02
MANY_UNEXPECTED = 0.05
MOSTLY_PRIOR = 0.5
LOW_SNR = 10.0
RESIDUAL_RANGE = (0.8, 1.25)
SHELL_RESIDUAL = 1.5
#: With as many measurements as unknowns only voxels at a bound leave residuals. As long as so few
#: lie there that this is no finding itself, they must not speak for the run.
ENOUGH_RESIDUALS = MANY_AT_BOUND


def findings(result: RunResult, *, sloppy: bool = False) -> list[dict[str, str]]:
    """Put what the numbers mean into words: warnings and notes, the most serious first."""
    values = facts.numbers(result)
    return [
        *_about_call(sloppy),
        *_about_voxels(values),
        *_about_fit(result, values),
        *_about_prior(result, values),
    ]


def _about_call(sloppy: bool) -> Iterator[dict[str, str]]:
    if sloppy:
        yield _finding("warning", "This is a fast test run (--sloppy).", "Do not use its maps.")


def _about_voxels(values: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if values["failed"] > MANY_FAILED:
        yield _finding(
            "warning", f"{values['failed']:.1%} of the voxels could not be fitted.",
            "They are NaN in the maps and bright cyan in the figures; the status map says why.",
        )  # fmt: skip
    if values["at_bound"] > MANY_AT_BOUND:
        yield _finding(
            "warning", f"In {values['at_bound']:.0%} of the voxels a parameter lies at its bound.",
            "There the model or the data are not up to it: check gradients, motion and mask.",
        )  # fmt: skip
    if values["unidentified"] > MANY_UNIDENTIFIED:
        yield _finding(
            "info",
            f"In {values['unidentified']:.0%} of the voxels the data hardly tell a parameter.",
            "Read the prior-influence and sd maps before using it.",
        )  # fmt: skip
    if values["removed"] > MANY_REMOVED:
        yield _finding(
            "warning", f"{values['removed']:.1%} of the given mask holds no signal.",
            "Those voxels were left out; check the mask, or whether the image was cropped.",
        )  # fmt: skip


def _about_fit(result: RunResult, values: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if values["snr"] is not None and values["snr"] < LOW_SNR:
        yield _finding(
            "warning", f"The signal-to-noise ratio of the b0 images is low ({values['snr']:.1f}).",
            "Faint lesions may be drawn towards normal tissue; look at the voxelwise maps too.",
        )  # fmt: skip
    residual = values["residual"] if _enough(result.posterior.residual) else None
    if residual is not None and residual > RESIDUAL_RANGE[1]:
        yield _finding(
            "warning", f"Residuals are {residual:.2f} times what noise alone would leave.",
            "Motion, artefacts or tissue that the model cannot describe; or the noise level was "
            "set too low. The sd maps do not contain this error.",
        )  # fmt: skip
    if residual is not None and residual < RESIDUAL_RANGE[0]:
        yield _finding(
            "warning", f"Residuals are only {residual:.2f} times what noise should leave.",
            "The noise level is probably set too high (was the image denoised or smoothed?); "
            "the sd maps are then too large.",
        )  # fmt: skip
    shells = facts.shell_rows(result)
    by_shell = result.posterior.shell_residual.unbind(1)
    bad = [
        row
        for row, residuals in zip(shells, by_shell, strict=False)  # without residual if unequal
        if row["residual"] is not None and row["residual"] > SHELL_RESIDUAL and _enough(residuals)
    ]
    # Where most shells are off, the sentence on the residuals has said it.
    if bad and len(bad) <= len(shells) / 2:
        yield _finding(
            "warning",
            "The model does not fit the measurements at b = "
            f"{', '.join(str(row['b_value']) for row in bad)} s/mm².",
            "Perfusion at low b (try --min-b), or signal at high b that the model lacks "
            "(try --max-b).",
        )  # fmt: skip


def _about_prior(result: RunResult, values: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if values["n_active"] == 1 and values["n_components"] > 1:
        yield _finding(
            "warning", "Only one tissue component is in use.",
            "All voxels are drawn towards one average; check the mask and the noise level.",
        )  # fmt: skip
    if values["unexpected"] is not None and values["unexpected"] > MANY_UNEXPECTED:
        yield _finding(
            "warning", f"{values['unexpected']:.1%} of the voxels look like no learnt tissue.",
            "Lesions, artefacts or partial volume: look at the unexpected-tissue map.",
        )  # fmt: skip
    drawn = [
        f"{row['name'].lower()} ({row['influence']:.0%})"
        for row in facts.parameter_rows(result)
        if row["influence"] is not None and row["influence"] > MOSTLY_PRIOR
    ]
    if drawn:
        yield _finding(
            "warning",
            "In the median voxel most of the information comes from the population, not from "
            f"the voxel: {', '.join(drawn)}.",
            "Do not read single voxels or small lesions from these maps.",
        )  # fmt: skip


def _enough(residuals: Tensor) -> bool:
    """Tell whether enough voxels have a residual to speak for the run."""
    return float(residuals.isfinite().double().mean()) >= ENOUGH_RESIDUALS


def _finding(severity: str, text: str, hint: str) -> dict[str, str]:
    return {"severity": severity, "code": "report", "text": text, "hint": hint}
