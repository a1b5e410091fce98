"""What the report says in words and numbers about a fitted run, as plain values."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bids_gmvae import __version__
from bids_gmvae.acquisition import Shells, find_shells
from bids_gmvae.io.qc import ACTIVE, UNEXPECTED, WILD
from bids_gmvae.io.result import RunResult
from bids_gmvae.posterior import FAILED, STATUS_DESCRIPTIONS, Status
from bids_gmvae.report.style import display_unit
from bids_gmvae.signal_models.base import Parameter

#: Where a mask came from, in words.
MASK_SOURCES = {
    "given": "as given with --mask",
    "derivative": "the one that comes with the image",
    "median_otsu": "computed from the mean b0 (median_otsu)",
}

#: Packages whose version is shown.
SOFTWARE = ("torch", "numpy", "scipy", "nibabel", "dipy", "nipype", "pybids", "matplotlib")

#: Below this b-value (s/mm^2) a shell is called b0.
UNWEIGHTED_B = 10.0


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
                "name": parameter.description.split(",")[0],
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


@dataclass(frozen=True, eq=False)
class Mixture:
    """How voxels share in the tissue components.

    Attributes
    ----------
    shares : array of shape (n_components,)
        Mean probability over the voxels that have an estimate.
    winner : array of int of shape (n_voxels,)
        Most probable component, from 0; -1 where there is no estimate.
    """

    shares: NDArray[np.float64]
    winner: NDArray[np.int_]

    @property
    def active(self) -> list[int]:
        """Components in use."""
        return [int(k) for k in np.flatnonzero(self.shares >= ACTIVE)]


def mixture(result: RunResult) -> Mixture | None:
    """Sum up the responsibilities of a run, if it has any."""
    if result.posterior.responsibilities is None:
        return None
    responsibilities = array(result.posterior.responsibilities)
    known = np.isfinite(responsibilities).all(axis=1)
    winner = np.where(known, np.nan_to_num(responsibilities).argmax(axis=1), -1)
    shares = np.zeros(responsibilities.shape[1])
    if known.any():
        shares = responsibilities[known].mean(axis=0)
    return Mixture(shares, winner)


def component_rows(result: RunResult) -> list[dict[str, Any]]:
    """Describe the tissue components in use by the voxels that most probably belong to them."""
    found = mixture(result)
    if found is None:
        return []
    parameters = result.posterior.signal_model.parameters
    factors = np.array([display_unit(parameter.unit)[0] for parameter in parameters])
    values = array(result.posterior.mean) * factors
    return [
        {
            "name": f"C{k + 1}",
            "share": float(f"{found.shares[k]:.4g}"),
            "medians": [median(column) for column in values[found.winner == k].T],
        }
        for k in found.active
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
    source = str(result.info.get("mask", {}).get("source", ""))
    return MASK_SOURCES.get(source, source)


def numbers(result: RunResult) -> dict[str, Any]:
    """Give the key numbers of a run; None where one does not apply."""
    posterior = result.posterior
    status = posterior.status.cpu().numpy()
    n_voxels = max(len(status), 1)
    n_removed = int(result.removed.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = median(result.reference[result.mask] / result.sigma)
    found = mixture(result)
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
        "shares": None if found is None else [float(f"{share:.4g}") for share in found.shares],
        "n_components": None if found is None else len(found.shares),
        "n_active": None if found is None else len(found.active),
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


def software() -> dict[str, str]:
    """Give the versions of this app and what it stands on."""
    versions = {"bids_gmvae": __version__, "Python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def learnt_from(result: RunResult) -> str:
    """Say whose tissue the prior describes."""
    given = result.info.get("fit", {}).get("summary", {}).get("prior")
    return "a group of participants" if given else "this scan"


def settings_of(result: RunResult) -> Mapping[str, Any]:
    """Give the settings of the fit and where it ran, without those that name paths."""
    fit = result.info.get("fit", {})
    settings = {
        key: value
        for key, value in fit.get("settings", {}).items()
        if key not in {"signal_model", "estimator"} and value not in (None, "", [], ())
    }
    if given := fit.get("summary", {}).get("prior"):
        settings["prior_from"] = f"{given['File']}, SHA-256 {given['SHA256']}"
    if "device" in fit:
        settings["device"] = fit["device"]
    # A user's folders are nobody else's business.
    return {
        key: "given by the user" if "/" in str(value) else value for key, value in settings.items()
    }


def _shell_name(b_value: float, is_b0: Any, number: int) -> str:
    if not is_b0:
        return str(number)
    return "b0" if b_value < UNWEIGHTED_B else "low b"


def _number(value: Any) -> float | None:
    return None if value is None else float(f"{float(value):.6g}")
