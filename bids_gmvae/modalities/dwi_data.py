"""Checks of a diffusion series that need its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.io.volumes import Levels
from bids_gmvae.modalities.base import Issue
from bids_gmvae.modalities.dwi_brightness import check_brightness
from bids_gmvae.modalities.dwi_floor import check_floor, late_volumes
from bids_gmvae.modalities.dwi_gradients import check_gradients
from bids_gmvae.modalities.dwi_labels import check_labels

#: Share of voxels without any weighted signal from which on the mask or scaling is doubtful.
MOST_WITHOUT_SIGNAL = 0.01
#: Voxels of less than this share of the usual b0 signal are dark; brains have up to 2 % of them.
DARK, MANY_DARK = 0.15, 0.05
#: Free water at body temperature diffuses at 3.0e-3 mm^2/s; noise and flow make up to 0.5 % of a
#: mask seem to exceed this. Perfusion matters below the first b-value, noise above the second.
FASTER_THAN_WATER, MANY_FASTER = 4e-3, 0.01
WATER_B = (400.0, 1600.0)
#: Voxels looked at at once.
CHUNK = 16_384


def check_data(
    signals: NDArray,
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
    signals : array of shape (n_voxels, n_volumes)
        All volumes of the voxels of ``mask``, in C order; may be mapped, and is read in chunks.
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
    early = _early_shell(acquisition, settings)
    late = late_volumes(bvals, early, settings.max_b)
    seen = _look(signals, mask, weighted, early, late)
    levels = seen.levels
    usable = levels.usable
    issues = [Issue("error", *fault) for fault in levels.faults()]
    if not issues:  # else they say why
        issues += _check_finite(seen.bad_somewhere)
        issues += _check_zeros(seen.n_zero, int(weighted.sum()))
    labels = check_labels(levels.means, acquisition, usable, settings)
    issues += labels
    if not labels:  # else they say why
        issues += _check_voxels(seen, bvals, early, late) if usable.all() else []
        issues += check_brightness(
            levels.means, seen.slice_means, seen.slice_sizes, usable, acquisition, settings
        )
    if directional and "bvecs" in acquisition and not seen.bad_somewhere.all():
        bvecs = acquisition.bvecs.cpu().double().numpy()
        issues += check_gradients(
            signals, mask, bvals, bvecs, usable, settings.b0_threshold, voxel_size=voxel_size
        )
    return issues


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the values of a series are like.

    Attributes
    ----------
    levels : Levels
        What the values of each volume are like.
    bad_somewhere : array of bool, shape (n_voxels,)
        Whether a value is not finite.
    n_zero : array of int, shape (n_voxels,)
        Weighted volumes in which a voxel is zero or less.
    slice_means : array of shape (n_slices, n_volumes)
        Of the finite values of the mask; 0 in slices without any.
    slice_sizes : array of int, shape (n_slices,)
        Voxels of the mask in each slice.
    b0, early, late : array of shape (n_voxels,)
        Mean of the b0 images, and of chosen volumes of low and of high b-value; NaN where a value
        is not finite.
    late_sd : array of shape (n_voxels,)
        Standard deviation of those of high b-value.
    """

    levels: Levels
    bad_somewhere: NDArray[np.bool_]
    n_zero: NDArray[np.intp]
    slice_means: NDArray[np.float64]
    slice_sizes: NDArray[np.intp]
    b0: NDArray[np.float64]
    early: NDArray[np.float64]
    late: NDArray[np.float64]
    late_sd: NDArray[np.float64]


def _early_shell(acquisition: Acquisition, settings: ModelSettings) -> NDArray[np.bool_]:
    """Choose the lowest shell beyond perfusion, (n_volumes,); none if echo times differ."""
    bvals = acquisition.bvals.cpu().double().numpy()
    none = np.zeros(len(bvals), dtype=bool)
    if "echo_times" in acquisition and len(acquisition.echo_times.unique()) > 1:
        return none
    shells = find_shells(
        acquisition, b0_threshold=settings.b0_threshold, shell_tolerance=settings.shell_tolerance
    )
    levels = shells.acquisition.bvals.cpu().double().numpy()
    usable = np.flatnonzero((levels >= WATER_B[0]) & (levels <= WATER_B[1]))
    if not len(usable):
        return none
    return shells.index.cpu().numpy() == usable[levels[usable].argmin()]


def _look(
    signals: NDArray,
    mask: NDArray[np.bool_],
    weighted: NDArray[np.bool_],
    early: NDArray[np.bool_],
    late: NDArray[np.bool_],
) -> _Seen:
    n_voxels, n_volumes = signals.shape
    slices = np.nonzero(mask)[2]
    slice_sizes = np.bincount(slices, minlength=mask.shape[2])
    slice_sums = np.zeros((mask.shape[2], n_volumes))
    b0, early_mean, late_mean, late_sd = np.full((4, n_voxels), np.nan)
    total, count = np.zeros(n_volumes), np.zeros(n_volumes, dtype=np.intp)
    lowest, highest = np.full(n_volumes, np.inf), np.full(n_volumes, -np.inf)
    bad_somewhere = np.zeros(n_voxels, dtype=bool)
    n_zero = np.zeros(n_voxels, dtype=np.intp)
    for first in range(0, n_voxels, CHUNK):
        rows = slice(first, first + CHUNK)
        values = signals[rows]
        finite = np.isfinite(values)
        bad_somewhere[rows] = ~finite.all(axis=1)
        n_zero[rows] = ((values <= 0) & weighted).sum(axis=1)
        belongs = slices[rows] == np.arange(mask.shape[2])[:, None]
        slice_sums += belongs.astype(np.float32) @ np.where(finite, values, 0)
        for chosen, voxels in ((~weighted, b0), (early, early_mean)):
            if chosen.any():
                voxels[rows] = values[:, chosen].mean(axis=1, dtype=np.float64)
        if late.any():
            part = values[:, late]
            late_mean[rows] = part.mean(axis=1, dtype=np.float64)
            late_sd[rows] = part.std(axis=1, ddof=1, dtype=np.float64)
        total += values.sum(axis=0, dtype=np.float64, where=finite)
        count += finite.sum(axis=0)
        lowest = np.minimum(lowest, values.min(axis=0, initial=np.inf, where=finite))
        highest = np.maximum(highest, values.max(axis=0, initial=-np.inf, where=finite))
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    constant = (lowest == highest) & (n_voxels > 1)
    slice_means = slice_sums / np.maximum(slice_sizes, 1)[:, None]
    of_voxels = b0, early_mean, late_mean, late_sd
    levels = Levels(means, constant, np.array(signals[0]))
    return _Seen(levels, bad_somewhere, n_zero, slice_means, slice_sizes, *of_voxels)


def _check_finite(bad_somewhere: NDArray[np.bool_]) -> list[Issue]:
    n_bad = int(bad_somewhere.sum())
    if not n_bad:
        return []
    text = (
        f"Values must be finite, but {n_bad} of {len(bad_somewhere)} voxels of the mask "
        "have a value that is not."
    )
    return [Issue("warning", "not_finite", text, "These voxels are not mapped.")]


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
            f"{some} of {len(n_zero)} voxels of the mask ({some / len(n_zero):.1%}) are 0 or less "
            "in some weighted volumes; these values are kept as data."
        )
        issues.append(Issue("info", "zeros", text))
    return issues


def _check_voxels(
    seen: _Seen, bvals: NDArray[np.float64], early: NDArray[np.bool_], late: NDArray[np.bool_]
) -> list[Issue]:
    """Compare the means over volumes of each voxel."""
    issues = [*_check_dark(seen.b0), *_check_water(seen, bvals[early])]
    if late.any():
        low, high = bvals[early].mean(), bvals[late].min()
        issues += check_floor(seen.b0, seen.early, seen.late, seen.late_sd, low, high)
    return issues


def _check_dark(b0: NDArray[np.float64]) -> list[Issue]:
    known = b0[np.isfinite(b0)]
    if not len(known):
        return []
    share = float((known < DARK * np.median(known)).mean())
    if share <= MANY_DARK:
        return []
    text = (
        f"The mask must cover tissue, but in {share:.0%} of its voxels the b0 signal is below "
        f"{DARK:.0%} of the usual one, like air."
    )
    hint = "Check in the report whether the mask lies on the head; give another with --mask PATH."
    return [Issue("warning", "mask_dark", text, hint)]


def _check_water(seen: _Seen, bvals: NDArray[np.float64]) -> list[Issue]:
    with np.errstate(divide="ignore", invalid="ignore"):
        decay = np.log(seen.b0 / seen.early)
    known = decay[np.isfinite(decay)]
    if not len(known):
        return []
    share = float((known > FASTER_THAN_WATER * bvals.mean()).mean())
    if share <= MANY_FASTER:
        return []
    text = (
        "Nothing diffuses faster than free water, 0.003 mm^2/s, but at b = "
        f"{bvals.mean():.0f} s/mm^2 {share:.0%} of the voxels seem to exceed "
        f"{FASTER_THAN_WATER:g} mm^2/s."
    )
    hint = "Check whether the b-values are too small, and whether the mask covers flow or air."
    return [Issue("warning", "faster_than_water", text, hint)]
