"""Checks of a diffusion series that need its voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.modalities.base import Issue


def check_data(
    data: NDArray,
    mask: NDArray[np.bool_],
    acquisition: Acquisition,
    settings: ModelSettings,
    *,
    directional: bool,
) -> list[Issue]:
    """Check the voxels of a series within its mask.

    Parameters
    ----------
    data : array, 4-D
        The volumes.
    mask : array of bool, 3-D
        Voxels to be mapped.
    acquisition : Acquisition
        Settings of the volumes.
    settings : ModelSettings
        Uses the b0 threshold and the shell tolerance.
    directional : bool
        Whether the signal model depends on gradient directions.

    Returns
    -------
    list of Issue
        Findings.
    """
    signals = np.asarray(data[mask], dtype=np.float32)
    bvals = acquisition.bvals.numpy()
    return [
        *_check_finite(signals),
        *_check_constant(signals),
        *_check_zeros(signals, bvals, settings.b0_threshold),
    ]


def _check_finite(signals: NDArray[np.float32]) -> list[Issue]:
    bad = ~np.isfinite(signals)
    issues = []
    whole = np.flatnonzero(bad.all(axis=0))
    if whole.size:
        issues.append(
            Issue(
                "error",
                "volume_not_finite",
                f"Volumes must hold finite values, but {_enumerate(whole)} hold none.",
                "Remove them from image and gradient table.",
            )
        )
    voxels = int(bad.any(axis=1).sum())
    if voxels and not whole.size:
        issues.append(
            Issue(
                "warning",
                "not_finite",
                f"Values must be finite, but {voxels} of {len(signals)} voxels have values that "
                "are not.",
                "They are left out.",
            )
        )
    return issues


def _check_constant(signals: NDArray[np.float32]) -> list[Issue]:
    with np.errstate(invalid="ignore"):
        constant = np.flatnonzero(np.ptp(signals, axis=0) == 0)
    if len(signals) < 2 or not constant.size:
        return []
    return [
        Issue(
            "error",
            "volume_constant",
            f"Volumes must vary over the mask, but {_enumerate(constant)} do not (all voxels "
            f"are {signals[0, constant[0]]:g}).",
            "Remove them from image and gradient table.",
        )
    ]


def _check_zeros(
    signals: NDArray[np.float32], bvals: NDArray[np.float64], b0_threshold: float
) -> list[Issue]:
    weighted = bvals > b0_threshold
    zero = signals[:, weighted] <= 0
    some, every = int(zero.any(axis=1).sum()), int(zero.all(axis=1).sum())
    issues = []
    if every:
        issues.append(
            Issue(
                "warning",
                "no_weighted_signal",
                f"Voxels need signal in weighted volumes, but {every} of {len(signals)} have "
                "none.",
                "Their maps say little; check the mask.",
            )
        )
    if some - every:
        issues.append(
            Issue(
                "info",
                "zeros",
                f"{some - every} of {len(signals)} voxels ({(some - every) / len(signals):.1%}) "
                "are 0 in some weighted volumes; zeros are kept as data.",
            )
        )
    return issues


def _enumerate(volumes: NDArray[np.intp], limit: int = 10) -> str:
    more = f" and {len(volumes) - limit} more" if len(volumes) > limit else ""
    return "volumes " + ", ".join(map(str, volumes[:limit])) + more
