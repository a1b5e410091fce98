"""The quality of one fitted run, as a flat table of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bids_gmvae.io.result import RunResult
from bids_gmvae.posterior import FAILED, ParameterMap, Status

#: A voxel is called unexpected tissue, or a component active, from these probabilities on.
UNEXPECTED = 0.5
ACTIVE = 0.01

#: Residuals beyond so many noise sd count as that many.
WILD = 4.0


@dataclass(frozen=True)
class Measure:
    """One number about a run.

    Attributes
    ----------
    name : str
        Column of the tables.
    value : str, int, float or None
        None where it does not apply.
    description : str
        One line for the data dictionary.
    unit : str
        Empty if dimensionless.
    """

    name: str
    value: Any
    description: str
    unit: str = ""


def measures(result: RunResult, *, sloppy: bool = False) -> list[Measure]:
    """Compute every number about a run, in the order of the tables.

    Parameters
    ----------
    result : RunResult
        The fitted run.
    sloppy : bool
        Whether it was a fast test run; its numbers must never pass for results.
    """
    return [
        *_identity(result),
        Measure("sloppy", sloppy, "Whether this was a fast test run, not to be used"),
        *_acquisition(result),
        *_voxels(result),
        *_noise(result),
        *_residuals(result),
        *_parameters(result),
        *_mixture(result),
        *_issues(result),
    ]


def quality(found: Sequence[Measure], result: RunResult) -> dict[str, Any]:
    """Give the content of the ``desc-qc.json`` of a run: flat values, then the issues.

    Parameters
    ----------
    found : sequence of Measure
        What `measures` gave.
    result : RunResult
        The fitted run.
    """
    values = {measure.name: measure.value for measure in found}
    issues = [dict(issue) for issue in result.info.get("issues", ())]
    # The mark is that of all sidecars.
    return {**values, **({"Sloppy": True} if values["sloppy"] else {}), "issues": issues}


def quality_table(found: Sequence[Measure]) -> list[dict[str, Any]]:
    """Give the same as a table with one row per measure, which explains itself."""
    return [
        {
            "measure": measure.name,
            "value": measure.value,
            "unit": measure.unit,
            "description": measure.description,
        }
        for measure in found
    ]


def _identity(result: RunResult) -> Iterator[Measure]:
    run, signal_model = result.run, result.posterior.signal_model
    session = f"ses-{run.session}" if run.session else None
    yield Measure("participant_id", f"sub-{run.subject}", "Participant")
    yield Measure("session_id", session, "Session")
    yield Measure("run", run.stem, "Entities of the image that was mapped")
    yield Measure("signal_model", signal_model.name, "Signal model")
    yield Measure("model", signal_model.label, "The model- label of the file names")
    estimator = result.info.get("fit", {}).get("estimator")
    yield Measure("estimator", estimator, "How the model was inverted")


def _acquisition(result: RunResult) -> Iterator[Measure]:
    shells = result.info.get("shells", ())
    bvals = "; ".join(f"{shell['b_value']:.0f}" for shell in shells)
    volumes = "; ".join(str(int(shell["n_volumes"])) for shell in shells)
    n_b0 = sum(int(shell["n_volumes"]) for shell in shells if shell["is_b0"])
    yield Measure("n_volumes", len(result.acquisition), "Volumes that were used")
    yield Measure("n_b0", n_b0, "Of these, volumes without diffusion weighting")
    yield Measure("shells", bvals or None, "Mean b-value of each shell", "s/mm^2")
    yield Measure("shell_volumes", volumes or None, "Volumes of each shell")


def _voxels(result: RunResult) -> Iterator[Measure]:
    status = result.posterior.status.cpu().numpy()
    n_given = int(result.mask.sum() + result.removed.sum())
    n_failed = int(np.isin(status, FAILED).sum())

    def count(code: Status) -> int:
        return int((status == code).sum())

    yield Measure("n_voxels_given", n_given, "Voxels of the given mask")
    yield Measure("n_voxels_removed", int(result.removed.sum()), "Of these, voxels without signal")
    yield Measure("n_voxels_mapped", len(status), "Voxels that were handed to the estimator")
    yield Measure("n_voxels_failed", n_failed, "Of these, voxels without an estimate")
    yield Measure(
        "n_voxels_at_bound", count(Status.AT_BOUND), "Voxels with a parameter at its bound"
    )
    yield Measure(
        "n_voxels_unidentified",
        count(Status.UNIDENTIFIED),
        "Voxels whose data hardly constrain a parameter or the fibre's direction",
    )
    for name, code in (("failed", None), ("at_bound", Status.AT_BOUND),
                       ("unidentified", Status.UNIDENTIFIED)):  # fmt: skip
        total = n_failed if code is None else count(code)
        share = total / len(status) if len(status) else None
        yield Measure(f"fraction_{name}", _plain(share), f"n_voxels_{name} / n_voxels_mapped")


def _noise(result: RunResult) -> Iterator[Measure]:
    low, median, high = _percentiles(result.sigma, 1, 50, 99)
    text = "of the noise standard deviation over the mask"
    yield Measure("sigma_median", median, f"Median {text}", "arbitrary")
    yield Measure("sigma_p01", low, f"1st percentile {text}", "arbitrary")
    yield Measure("sigma_p99", high, f"99th percentile {text}", "arbitrary")
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.asarray(result.reference[result.mask] / result.sigma)
    yield Measure("snr_b0", _percentiles(snr, 50)[0], "Median b0 signal over the noise")


def _residuals(result: RunResult) -> Iterator[Measure]:
    posterior = result.posterior
    text = "root mean square of the residuals over the noise; 1 where the model is right"
    yield Measure(
        "residual_rms",
        _root_mean_square(_estimated(result, posterior.residual)),
        text.capitalize(),
    )
    by_shell = posterior.shell_residual.unbind(1)
    shells = result.info.get("shells", ())
    names = [f"b{shell['b_value']:.0f}" for shell in shells]
    if len(names) != len(by_shell) or len(set(names)) != len(names):
        # Several echo times share a b-value: shells are told apart by their order.
        names = [f"shell{index}" for index in range(1, len(by_shell) + 1)]
    for name, values in zip(names, by_shell, strict=True):
        level = _root_mean_square(_estimated(result, values))
        yield Measure(f"residual_{name}", level, f"The same within the shell {name}; {text}")


def _parameters(result: RunResult) -> Iterator[Measure]:
    for item in result.posterior.maps():
        if item.statistic == "samples":  # summarised by mean and std
            continue
        low, median, high = _percentiles(_estimated(result, item.values), 25, 50, 75)
        name = f"{parameter_label(item)}_{item.statistic}"
        iqr = None if low is None or high is None else _plain(high - low)
        text = f"over the mask: {item.description}"
        yield Measure(f"{name}_median", median, f"Median {text}", item.unit)
        yield Measure(f"{name}_iqr", iqr, f"Interquartile range {text}", item.unit)


def _mixture(result: RunResult) -> Iterator[Measure]:
    posterior = result.posterior
    history = result.info.get("fit", {}).get("history", ())
    yield Measure("n_training_steps", len(history), "Steps of the training")
    own = "objective" in result.info.get("fit", {}).get("summary", {})
    yield Measure(
        "elbo", _plain(history[-1]) if len(history) and not own else None,
        "Evidence lower bound per voxel at the end of the training", "nat",
    )  # fmt: skip
    if posterior.unexpected is not None:
        chances = _finite(_estimated(result, posterior.unexpected))
        share = (chances > UNEXPECTED).mean() if len(chances) else None
        yield Measure(
            "unexpected_fraction", _plain(share),
            "Share of voxels that are probably unlike the learnt population",
        )  # fmt: skip
    if posterior.responsibilities is None:
        return
    shares = [
        _plain(values.mean()) if len(values) else None
        for values in map(_finite, _estimated(result, posterior.responsibilities).unbind(1))
    ]
    active = sum(share is not None and share >= ACTIVE for share in shares)
    yield Measure("n_components", len(shares), "Tissue components of the prior")
    yield Measure("n_components_active", active, f"Of these, with a share of at least {ACTIVE}")
    for k, share in enumerate(shares, start=1):
        yield Measure(f"component_C{k}_share", share, f"Mean probability of component {k}")


def _issues(result: RunResult) -> Iterator[Measure]:
    issues = result.info.get("issues", ())
    for severity in ("error", "warning"):
        found = [issue["code"] for issue in issues if issue["severity"] == severity]
        yield Measure(f"n_{severity}s", len(found), f"Findings of the checks: {severity}s")
    codes = "; ".join(dict.fromkeys(issue["code"] for issue in issues))
    yield Measure("issue_codes", codes or None, "What the checks found")


def parameter_label(item: ParameterMap) -> str:
    """Give the short name of a parameter in tables: its ``param-`` label, else its own name."""
    return item.parameter.bids.get("param", item.parameter.name)


def _estimated(result: RunResult, values: Tensor) -> Tensor:
    """Keep the voxels that hold an estimate."""
    status = result.posterior.status
    return values[~torch.isin(status, status.new_tensor([int(code) for code in FAILED]))]


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _percentiles(values: ArrayLike, *ranks: float) -> list[float | None]:
    finite = _finite(values)
    if not len(finite):
        return [None] * len(ranks)
    return [_plain(value) for value in np.percentile(finite, ranks)]


def _root_mean_square(residuals: ArrayLike) -> float | None:
    """Average over voxels; a few wild ones must not decide, so residuals are cut at `WILD`."""
    finite = _finite(residuals)
    return _plain(np.sqrt(np.mean(np.minimum(finite, WILD) ** 2))) if len(finite) else None


def _plain(value: Any) -> float | None:
    """Give a JSON number; the last bits differ between processors and mean nothing."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.6g}")
