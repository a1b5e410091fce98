"""Checks of a diffusion series that need its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.modalities.base import Issue
from bids_gmvae.modalities.dwi_gradients import check_gradients
from bids_gmvae.modalities.dwi_labels import check_labels

#: Share of voxels without any weighted signal from which on the mask or scaling is doubtful.
MOST_WITHOUT_SIGNAL = 0.01


def check_data(
    data: NDArray,
    mask: NDArray[np.bool_],
    acquisition: Acquisition,
    settings: ModelSettings,
    *,
    directional: bool,
    voxel_size: Sequence[float],
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
    voxel_size : sequence of float
        Edges of a voxel, mm.

    Returns
    -------
    list of Issue
        Findings; none if all is well.
    """
    bvals = acquisition.bvals.cpu().double().numpy()
    weighted = bvals > settings.b0_threshold
    n_voxels, n_volumes = int(mask.sum()), data.shape[-1]
    means = np.full(n_volumes, np.nan)
    constant = np.zeros(n_volumes, dtype=bool)
    bad_somewhere = np.zeros(n_voxels, dtype=bool)
    n_zero = np.zeros(n_voxels, dtype=np.intp)
    # Volume by volume, because a copy of all voxels may not fit into memory.
    for volume in range(n_volumes):
        values = data[..., volume][mask]
        finite = np.isfinite(values)
        bad_somewhere |= ~finite
        if finite.any():
            means[volume] = values[finite].mean(dtype=np.float64)
            constant[volume] = n_voxels > 1 and np.ptp(values[finite]) == 0
        if weighted[volume]:
            n_zero += values <= 0

    issues = _check_finite(np.isnan(means), bad_somewhere)
    issues += _check_constant(constant, means)
    issues += _check_zeros(n_zero, int(weighted.sum()))
    usable = np.isfinite(means) & (means > 0) & ~constant
    issues += check_labels(means, acquisition, usable, settings)
    if directional and "bvecs" in acquisition and not bad_somewhere.all():
        bvecs = acquisition.bvecs.cpu().double().numpy()
        issues += check_gradients(
            data, mask, bvals, bvecs, usable, settings.b0_threshold, voxel_size=voxel_size
        )
    return issues


def _check_finite(whole: NDArray[np.bool_], bad_somewhere: NDArray[np.bool_]) -> list[Issue]:
    if whole.any():
        text = (
            "Each volume must hold finite values, but "
            f"{_enumerate(np.flatnonzero(whole))} (counted from 0) hold none."
        )
        hint = "Remove them from the image and from the gradient table."
        return [Issue("error", "volume_not_finite", text, hint)]
    n_bad = int(bad_somewhere.sum())
    if n_bad:
        text = (
            f"Values must be finite, but {n_bad} of {len(bad_somewhere)} voxels of the mask "
            "have a value that is not."
        )
        return [Issue("warning", "not_finite", text, "These voxels are not mapped.")]
    return []


def _check_constant(constant: NDArray[np.bool_], means: NDArray[np.float64]) -> list[Issue]:
    if not constant.any():
        return []
    volumes = np.flatnonzero(constant)
    text = (
        f"Each volume must vary over the mask, but {_enumerate(volumes)} (counted from 0) "
        f"do not: all voxels of volume {volumes[0]} are {means[volumes[0]]:g}."
    )
    hint = "Remove them from the image and from the gradient table."
    return [Issue("error", "volume_constant", text, hint)]


def _check_zeros(n_zero: NDArray[np.intp], n_weighted: int) -> list[Issue]:
    every = int((n_zero == n_weighted).sum()) if n_weighted else 0
    some = int((n_zero > 0).sum()) - every
    issues = []
    if every:
        severity: Literal["warning", "info"] = (
            "warning" if every > MOST_WITHOUT_SIGNAL * len(n_zero) else "info"
        )
        text = (
            f"Voxels need signal in the weighted volumes, but {every} of {len(n_zero)} voxels "
            "of the mask have none."
        )
        hint = "Check the mask and the scaling of the image."
        issues.append(Issue(severity, "no_weighted_signal", text, hint))
    if some > 0:
        text = (
            f"{some} of {len(n_zero)} voxels of the mask ({some / len(n_zero):.1%}) are 0 in some "
            "weighted volumes; these zeros are kept as data."
        )
        issues.append(Issue("info", "zeros", text))
    return issues


def _enumerate(volumes: NDArray[np.intp], limit: int = 10) -> str:
    more = f" and {len(volumes) - limit} more" if len(volumes) > limit else ""
    plural = "volume" if len(volumes) == 1 else "volumes"
    return f"{plural} {', '.join(map(str, volumes[:limit]))}{more}"
