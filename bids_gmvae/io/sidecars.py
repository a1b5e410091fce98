"""What the JSON file beside each map says; pure functions from a result to plain values.

Nothing here depends on the time, on absolute paths or on the subject's metadata: the same
result always gives the same sidecars.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from bids_gmvae.estimators import ESTIMATORS
from bids_gmvae.io.result import RunResult
from bids_gmvae.io.run import Run
from bids_gmvae.posterior import STATUS_DESCRIPTIONS, ParameterMap, Status

Sidecar = dict[str, Any]

#: How values are to be read where there is no estimate.
MISSING_VALUES = "0 outside the mask; NaN where the fit failed, see the status map"

ARBITRARY = "arbitrary"
DIMENSIONLESS = "1"

#: The estimator that fits each voxel on its own: nothing is learnt, nothing is random.
VOXELWISE = "lsq"

#: Settings about the data, which are those of this call, by their names in the sidecar.
_DATA_SETTINGS: Mapping[str, str] = {
    "noise_model": "NoiseModel",
    "b0_threshold": "B0Threshold",
    "shell_tolerance": "ShellTolerance",
    "min_b": "MinimumB",
    "max_b": "MaximumB",
}

#: What the fit says of its training, which may be an earlier one (``--reuse-fit``).
_LEARNING_SUMMARY: Mapping[str, str] = {
    "recognition": "Recognition",
    "objective": "Objective",
    "n_components": "Components",
    "n_active": "ActiveComponents",
    "n_epochs": "Epochs",
    "n_training_voxels": "TrainingVoxels",
    "prior": "Prior",
}


def bids_uri(path: Path | str, roots: Mapping[str, Path | str]) -> str | None:
    """Name a file by the dataset it lies in.

    Parameters
    ----------
    path : Path
        The file.
    roots : mapping of str to Path
        Dataset folders by their key in ``DatasetLinks``.

    Returns
    -------
    str or None
        ``bids:<key>:<path>``; None if the file lies in none of the datasets.

    Examples
    --------
    >>> bids_uri("/data/sub-1/dwi/sub-1_dwi.nii.gz", {"raw": "/data"})
    'bids:raw:sub-1/dwi/sub-1_dwi.nii.gz'
    """
    absolute = Path(os.path.abspath(path))
    found = [
        (len(absolute.parts) - len(Path(os.path.abspath(root)).parts), key, root)
        for key, root in roots.items()
        if absolute.is_relative_to(os.path.abspath(root))
    ]
    if not found:
        return None
    _, key, root = min(found)  # the innermost: derivatives often lie inside raw datasets
    relative = absolute.relative_to(os.path.abspath(root))
    return f"bids:{key}:{quote(relative.as_posix(), safe='/+~')}"


def uris(run: Run, paths: Iterable[Path | str], provenance: Mapping[str, Any]) -> list[str]:
    """Name files by BIDS URIs; files outside the known datasets are left out."""
    roots = {**provenance.get("links", {}), run.dataset: run.dataset_root}
    named = (bids_uri(path, roots) for path in paths)
    return list(dict.fromkeys(uri for uri in named if uri is not None))


def spatial_reference(run: Run, provenance: Mapping[str, Any]) -> Sidecar:
    """Give the image that defines the space of a run with a ``space-`` entity.

    Without the entity the space is that of the source image, and BIDS wants no reference.
    """
    if "_space-" not in run.stem:
        return {}
    candidates = [run.companions.get("reference", run.image), run.image]
    named = uris(run, candidates, provenance)
    return {"SpatialReference": named[0]} if named else {}


def model_description(
    result: RunResult, provenance: Mapping[str, Any], *, estimator: str | None = None
) -> Sidecar:
    """Give the BEP016 field ``Model``: the physics, how it was inverted, from which data.

    Parameters
    ----------
    result : RunResult
        The fitted run.
    provenance : mapping
        See `bids_gmvae.io.derivatives.write_result`.
    estimator : str, optional
        Another estimator than that of the result: `VOXELWISE` for the maps beside.

    Returns
    -------
    dict
        ``Description``, ``URL``, ``TermURL`` and ``Parameters``. There is no ``FitMethod``: its
        enumeration has no word for posterior inference.
    """
    signal_model = result.posterior.signal_model
    fit = result.info.get("fit", {})
    used = estimator or fit.get("estimator", "")
    own, trained = provenance.get("settings", {}), fit.get("settings", {})
    data_settings = {**trained, **own}
    parameters: Sidecar = {
        "InferenceMethod": ESTIMATORS[used].description if used in ESTIMATORS else used,
        "Estimator": used,
        **{name: data_settings.get(key) for key, name in _DATA_SETTINGS.items()},
        "Shells": [rounded(shell["b_value"]) for shell in result.info.get("shells", ())],
        "SigmaMedian": rounded(np.nanmedian(result.sigma)) if len(result.sigma) else None,
        "Device": provenance.get("device", fit.get("device")),
        "SoftwareVersion": provenance.get("version"),
    }
    if used != VOXELWISE:
        summary, history = fit.get("summary", {}), fit.get("history", ())
        parameters |= {name: summary.get(key) for key, name in _LEARNING_SUMMARY.items()}
        parameters |= {
            "Seed": trained.get("random_seed", own.get("random_seed")),
            "ELBO": rounded(history[-1]) if len(history) and "objective" not in summary else None,
            "Samples": own.get("posterior_samples") or None,
        }
    return {
        "Description": signal_model.description,
        "URL": signal_model.reference,
        "TermURL": signal_model.reference,
        "Parameters": {key: value for key, value in parameters.items() if value is not None},
    }


def image_sidecar(
    result: RunResult, provenance: Mapping[str, Any], *, description: str, mask: str
) -> Sidecar:
    """Give what every image of a run needs.

    Parameters
    ----------
    result : RunResult
        The fitted run.
    provenance : mapping
        See `bids_gmvae.io.derivatives.write_result`.
    description : str
        One line about the image.
    mask : str
        Path of the mask that was written, relative to the output dataset.
    """
    run = result.run
    # QSIPrep's world-frame table is preferred to the FSL one where both exist.
    tables = ("bval", "b" if "b" in run.companions else "bvec")
    inputs = [*run.files, *(run.companions[key] for key in tables if key in run.companions)]
    return {
        "Description": description,
        "SkullStripped": True,
        **spatial_reference(run, provenance),
        "Sources": [*uris(run, inputs, provenance), f"bids::{mask}"],
        **sloppy(provenance),
    }


def sloppy(provenance: Mapping[str, Any]) -> Sidecar:
    """Mark what was made with ``--sloppy``: it must never pass for a result."""
    return {"Sloppy": True} if provenance.get("sloppy") else {}


def quantity_sidecar(
    result: RunResult,
    provenance: Mapping[str, Any],
    *,
    description: str,
    unit: str,
    mask: str,
    estimator: str | None = None,
) -> Sidecar:
    """Give the sidecar of a map of real numbers."""
    return {
        **image_sidecar(result, provenance, description=description, mask=mask),
        "Units": unit or DIMENSIONLESS,
        "MissingValues": MISSING_VALUES,
        "Model": model_description(result, provenance, estimator=estimator),
    }


def parameter_sidecar(
    result: RunResult,
    provenance: Mapping[str, Any],
    parameter_map: ParameterMap,
    *,
    mask: str,
    estimator: str | None = None,
) -> Sidecar:
    """Give the sidecar of a parameter map."""
    parameter, statistic = parameter_map.parameter, parameter_map.statistic
    description = parameter_map.description
    if (estimator or result.info.get("fit", {}).get("estimator")) == VOXELWISE:
        # Without a prior there is no posterior: an estimate and its standard error.
        kind = "standard error" if statistic == "std" else "estimate"
        description = f"{parameter.description}; {kind} of the voxelwise fit"
    sidecar = quantity_sidecar(
        result,
        provenance,
        description=description,
        unit=parameter_map.unit,
        mask=mask,
        estimator=estimator,
    )
    if statistic in ("mean", "samples", VOXELWISE) and parameter.lower >= 0:
        sidecar["NonNegativity"] = "constrained"
    if statistic == "samples":
        sidecar["BootstrapAxis"] = 3
    return sidecar


def orientation_sidecar(result: RunResult, provenance: Mapping[str, Any], *, mask: str) -> Sidecar:
    """Give the sidecar of the fibre orientation, a 4-D image of unit vectors."""
    description = "Principal fibre orientation"
    return {
        **quantity_sidecar(result, provenance, description=description, unit="", mask=mask),
        "OrientationEncoding": {
            "Type": "unit3vector",
            "EncodingAxis": 3,
            "Reference": "ijk",
            "AntipodalSymmetry": True,
        },
    }


def probability_sidecar(
    result: RunResult, provenance: Mapping[str, Any], *, description: str, mask: str
) -> Sidecar:
    """Give the sidecar of a map of probabilities."""
    quantity = quantity_sidecar(result, provenance, description=description, unit="", mask=mask)
    return {**quantity, "Manual": False}


def status_sidecar(result: RunResult, provenance: Mapping[str, Any], *, mask: str) -> Sidecar:
    """Give the sidecar of the map of status codes."""
    description = "What became of each voxel; the codes are in the table beside"
    return {
        **image_sidecar(result, provenance, description=description, mask=mask),
        "Manual": False,
    }


def status_table() -> list[dict[str, Any]]:
    """Give the look-up table of the status codes, one row per code."""
    return [
        {"index": int(code), "name": code.name.lower(), "description": STATUS_DESCRIPTIONS[code]}
        for code in Status
    ]


def mask_sidecar(result: RunResult, provenance: Mapping[str, Any]) -> Sidecar:
    """Give the sidecar of the mask of fitted voxels, with what was changed in the given one."""
    info = result.info.get("mask", {})
    n_removed, n_kept = int(result.removed.sum()), int(result.mask.sum())
    origin = [info["path"]] if info.get("path") else []
    return {
        "Description": "Voxels that were fitted: the given mask without those that lack signal",
        "Type": "Brain",
        **spatial_reference(result.run, provenance),
        "Sources": uris(result.run, [*origin, *result.run.files], provenance),
        "Manual": False,
        "MaskSource": str(info.get("source", "")),
        "VoxelCounts": {"Given": n_kept + n_removed, "Removed": n_removed, "Kept": n_kept},
        **sloppy(provenance),
    }


def rounded(value: float | np.floating) -> float:
    """Keep the digits that mean something: the last bits differ between processors."""
    return float(f"{float(value):.6g}")
