"""What the report says in words and numbers about a fitted run, as plain values."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bids_gmvae import __version__
from bids_gmvae.acquisition import Shells, find_shells
from bids_gmvae.io.result import RunResult
from bids_gmvae.posterior import FAILED, STATUS_DESCRIPTIONS, Status
from bids_gmvae.report.style import display_unit
from bids_gmvae.signal_models.base import Parameter

#: A component is active from this share on; a voxel is unexpected from this probability on.
ACTIVE = 0.01
UNEXPECTED = 0.5

#: Packages whose version is shown.
SOFTWARE = ("torch", "numpy", "scipy", "nibabel", "dipy", "nipype", "pybids", "matplotlib")

#: Below this b-value (s/mm^2) a shell is called b0.
UNWEIGHTED_B = 10.0

#: Residuals beyond so many noise sd count as that many.
WILD = 4.0

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


def array(values: Tensor) -> NDArray[np.float64]:
    """Give a tensor as a float array."""
    return values.detach().cpu().double().numpy()


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """Keep the finite values, flat."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def median(values: ArrayLike) -> float | None:
    """Give the median of the finite values, None if there is none."""
    usable = finite(values)
    return float(f"{np.median(usable):.6g}") if usable.size else None


def overall(residuals: ArrayLike) -> float | None:
    """Give the root mean square of residuals over noise, None if there is none.

    It is 1 where model and noise level are right, however few measurements each residual is
    made of; the median is not. Cut at `WILD`, so that a few wild voxels do not decide.

    Examples
    --------
    >>> overall([0.5, 1.5, float("nan")])
    1.11803
    """
    usable = finite(residuals)
    if not usable.size:
        return None
    return float(f"{np.sqrt(np.mean(np.minimum(usable, WILD) ** 2)):.6g}")


def shells_of(result: RunResult) -> Shells:
    """Group the volumes as the estimator did."""
    settings = result.info.get("fit", {}).get("settings", {})
    return find_shells(
        result.acquisition,
        b0_threshold=settings.get("b0_threshold", 100.0),
        shell_tolerance=settings.get("shell_tolerance", 0.05),
    )


def shell_rows(result: RunResult) -> list[dict[str, Any]]:
    """Describe each shell: b-value (s/mm^2), volumes, echo time (s) if known, residual."""
    shells = shells_of(result)
    residuals = array(result.posterior.shell_residual)
    matching = residuals.shape[1] == len(shells)
    rows, weighted = [], 0
    for index in range(len(shells)):
        b_value = float(shells.acquisition.bvals[index])
        weighted += not shells.is_b0[index]
        row: dict[str, Any] = {
            "name": _shell_name(
                float(shells.acquisition.bvals[index]), shells.is_b0[index], weighted
            ),
            "b_value": round(b_value),
            "n_volumes": int(shells.counts[index]),
            "is_b0": bool(shells.is_b0[index]),
            "residual": overall(residuals[:, index]) if matching else None,
        }
        if "echo_times" in result.acquisition:
            row["echo_time"] = float(f"{float(shells.acquisition.echo_times[index]):.6g}")
        rows.append(row)
    return rows


def all_parameters(result: RunResult) -> Iterator[tuple[Parameter, dict[str, Tensor]]]:
    """Yield each parameter with its maps by statistic, the derived ones last."""
    posterior, lsq = result.posterior, result.lsq
    for index, parameter in enumerate(posterior.signal_model.parameters):
        maps = {"mean": posterior.mean[:, index], "std": posterior.std[:, index]}
        if lsq is not None:
            maps["lsq"] = lsq.mean[:, index]
        if posterior.prior_influence is not None:
            maps["priorinfluence"] = posterior.prior_influence[:, index]
        yield parameter, maps
    for parameter, (mean, std) in posterior.derived.items():
        maps = {"mean": mean, "std": std}
        if lsq is not None and parameter in lsq.derived:
            maps["lsq"] = lsq.derived[parameter][0]
        yield parameter, maps


def parameter_rows(result: RunResult) -> list[dict[str, Any]]:
    """Summarise each parameter over the mask, in the unit that is shown."""
    rows = []
    for parameter, maps in all_parameters(result):
        factor, unit = display_unit(parameter.unit)
        usable = finite(array(maps["mean"])) * factor
        quartiles = np.percentile(usable, (25, 75)) if usable.size else (None, None)
        influence = maps.get("priorinfluence")
        rows.append(
            {
                "name": parameter.description,
                "unit": unit,
                "median": median(usable),
                "first_quartile": _number(quartiles[0]),
                "third_quartile": _number(quartiles[1]),
                "lsq": median(array(maps["lsq"]) * factor) if "lsq" in maps else None,
                "std": median(array(maps["std"]) * factor),
                "influence": None if influence is None else median(array(influence)),
            }
        )
    return rows


def component_rows(result: RunResult) -> list[dict[str, Any]]:
    """Describe the tissue components in use by the voxels that most probably belong to them."""
    if result.posterior.responsibilities is None:
        return []
    responsibilities = np.nan_to_num(array(result.posterior.responsibilities))
    shares = responsibilities.mean(0) if len(responsibilities) else np.zeros(0)
    winner = responsibilities.argmax(1)
    parameters = result.posterior.signal_model.parameters
    factors = np.array([display_unit(parameter.unit)[0] for parameter in parameters])
    values = array(result.posterior.mean) * factors
    return [
        {
            "name": f"C{k + 1}",
            "share": float(f"{shares[k]:.4g}"),
            "medians": [median(column) for column in values[winner == k].T],
        }
        for k in map(int, np.flatnonzero(shares >= ACTIVE))
    ]


def status_rows(result: RunResult) -> list[dict[str, Any]]:
    """Count what became of the voxels of the given mask."""
    status = result.posterior.status.cpu().numpy()
    counts = {code: int((status == code).sum()) for code in Status}
    counts[Status.NO_SIGNAL_SUPPORT] += int(result.removed.sum())
    total = len(status) + int(result.removed.sum())
    return [
        {
            "code": int(code),
            "text": STATUS_DESCRIPTIONS[code],
            "count": counts[code],
            "share": counts[code] / max(total, 1),
        }
        for code in Status
        if code != Status.OUTSIDE and (counts[code] or code == Status.FITTED)
    ]


def mask_source(result: RunResult) -> str:
    """Say where the mask came from."""
    return str(result.info.get("mask", {}).get("source", ""))


def numbers(result: RunResult) -> dict[str, Any]:
    """Give the key numbers of a run; None where one does not apply."""
    posterior = result.posterior
    status = posterior.status.cpu().numpy()
    n_voxels = max(len(status), 1)
    n_removed = int(result.removed.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = median(result.reference[result.mask] / result.sigma)
    shares = None
    if posterior.responsibilities is not None and len(status):
        shares = np.nan_to_num(array(posterior.responsibilities)).mean(0)
    unexpected = None
    if posterior.unexpected is not None and len(status):
        unexpected = finite(array(posterior.unexpected))
    history = list(result.info.get("fit", {}).get("history", ()))
    return {
        "n_voxels": len(status),
        "failed": float(np.isin(status, FAILED).sum() / n_voxels),
        "at_bound": float((status == Status.AT_BOUND).sum() / n_voxels),
        "unidentified": float((status == Status.UNIDENTIFIED).sum() / n_voxels),
        "removed": n_removed / max(n_removed + len(status), 1),
        "snr": snr,
        "sigma": median(result.sigma),
        "residual": overall(array(posterior.residual)),
        "shares": None if shares is None else [float(f"{share:.4g}") for share in shares],
        "n_components": None if shares is None else len(shares),
        "n_active": None if shares is None else int((shares >= ACTIVE).sum()),
        "unexpected": (
            None
            if unexpected is None or not unexpected.size
            else float((unexpected > UNEXPECTED).mean())
        ),
        "unexpected_share": (
            None if unexpected is None or not unexpected.size else float(unexpected.mean())
        ),
        "elbo": float(history[-1]) if history and np.isfinite(history[-1]) else None,
        "n_steps": len(history),
    }


def findings(result: RunResult) -> list[dict[str, str]]:
    """Put what the numbers mean into words: warnings and notes, the most serious first."""
    values = numbers(result)
    return [
        *_about_voxels(values),
        *_about_fit(result, values),
        *_about_prior(result, values),
    ]


def software() -> dict[str, str]:
    """Give the versions of this app and what it stands on."""
    versions = {"bids_gmvae": __version__, "Python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def settings_of(result: RunResult) -> Mapping[str, Any]:
    """Give the settings of the fit and where it ran, without those that name paths."""
    fit = result.info.get("fit", {})
    settings = {
        key: value
        for key, value in fit.get("settings", {}).items()
        if key not in {"signal_model", "estimator"} and value not in (None, "", [], ())
    }
    for key in ("device", "seconds"):
        value = fit.get(key, fit.get("summary", {}).get(key))
        if value is not None:
            settings[key] = float(f"{value:.3g}") if isinstance(value, float) else value
    # A user's folders are nobody else's business.
    return {
        key: "given by the user" if "/" in str(value) else value for key, value in settings.items()
    }


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
    residual = values["residual"]
    if residual is not None and residual > RESIDUAL_RANGE[1]:
        yield _finding(
            "warning", f"Residuals are {residual:.2f} times what noise alone would leave.",
            "Motion, artefacts or tissue that the model cannot describe; or the noise level was "
            "set too low. The sd maps are too small by about that factor.",
        )  # fmt: skip
    if residual is not None and residual < RESIDUAL_RANGE[0]:
        yield _finding(
            "warning", f"Residuals are only {residual:.2f} times what noise should leave.",
            "The noise level is probably set too high (was the image denoised or smoothed?); "
            "the sd maps are then too large.",
        )  # fmt: skip
    bad = [
        f"b = {row['b_value']}" for row in shell_rows(result)
        if row["residual"] is not None and row["residual"] > SHELL_RESIDUAL
    ]  # fmt: skip
    if bad:
        yield _finding(
            "warning", f"The model does not fit the shell at {', '.join(bad)} s/mm².",
            "Perfusion at low b (try --min-b), or signal at high b that the model lacks "
            "(try --max-b).",
        )  # fmt: skip
    if result.info.get("sloppy"):
        yield _finding("warning", "This is a fast test run (--sloppy).", "Do not use its maps.")


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
        f"{row['name'].split(',')[0].lower()} ({row['influence']:.0%})"
        for row in parameter_rows(result)
        if row["influence"] is not None and row["influence"] > MOSTLY_PRIOR
    ]
    if drawn:
        yield _finding(
            "warning",
            "In the median voxel most of the information comes from the population, not from "
            f"the voxel: {', '.join(drawn)}.",
            "Do not read single voxels or small lesions from these maps.",
        )  # fmt: skip


def _finding(severity: str, text: str, hint: str) -> dict[str, str]:
    return {"severity": severity, "code": "report", "text": text, "hint": hint}


def _shell_name(b_value: float, is_b0: Any, number: int) -> str:
    if not is_b0:
        return str(number)
    return "b0" if b_value < UNWEIGHTED_B else "low b"


def _number(value: Any) -> float | None:
    return None if value is None else float(f"{float(value):.6g}")
