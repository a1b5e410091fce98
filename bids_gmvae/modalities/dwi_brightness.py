"""Whether the volumes of a shell, and their slices, are as bright as each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.modalities.base import Issue
from bids_gmvae.modalities.dwi_directions import unexplained

#: Differences of log signals. Real b0 images differ by up to 0.02, weighted volumes by up to 0.08
#: from what their direction explains; slices of them by more.
B0_STEP, VOLUME_STEP, SLICE_LOSS = 0.1, 0.15, 0.3
#: So many robust standard deviations of its shell must a volume be off as well.
MANY_SD = 6.0
#: Fewest volumes of a shell that tell what is usual.
FEWEST_VOLUMES = 5
#: Smaller parts of a slice say nothing.
FEWEST_VOXELS = 100
#: More than this share of the slices lost is more than single movements.
MANY_SLICES = 0.01


def check_brightness(
    means: NDArray[np.float64],
    slice_means: NDArray[np.float64],
    slice_sizes: NDArray[np.intp],
    usable: NDArray[np.bool_],
    acquisition: Acquisition,
    settings: ModelSettings,
) -> list[Issue]:
    """Find volumes and slices that are darker or brighter than the others of their shell.

    Two scanners or gains in one series make steps, movement during the diffusion weighting makes
    slices or volumes lose signal. What the direction of the gradient explains is expected.

    Parameters
    ----------
    means : array of shape (n_volumes,)
        Mean signal over the mask.
    slice_means : array of shape (n_slices, n_volumes)
        The same in each slice.
    slice_sizes : array of int, shape (n_slices,)
        Voxels of the mask in each slice.
    usable : array of bool, shape (n_volumes,)
        Volumes with a positive mean; the others are not looked at.
    acquisition : Acquisition
        Settings of the volumes.
    settings : ModelSettings
        Uses the b0 threshold and the shell tolerance.

    Returns
    -------
    list of Issue
        At most one for b0 images, one for weighted volumes and one for slices.
    """
    found = find_shells(
        acquisition,
        b0_threshold=settings.b0_threshold,
        shell_tolerance=settings.shell_tolerance,
    )
    shells = found.index.cpu().numpy()
    is_b0 = (acquisition.bvals <= settings.b0_threshold).cpu().numpy()
    slices = slice_means[slice_sizes >= FEWEST_VOXELS]
    logs = np.log(np.maximum(np.vstack([means, slices]), np.finfo(float).tiny))
    left = unexplained(logs, acquisition, shells, ~is_b0 & usable)
    off, judged = left.off, left.judged
    for shell in np.unique(shells[is_b0 & usable]):
        members = is_b0 & usable & (shells == shell)
        # The upper of two middles: of two equal groups the darker one is named.
        usual = np.sort(logs[:, members], axis=1)[:, [members.sum() // 2]]
        off[:, members] = judged[:, members] = logs[:, members] - usual
    n_usable = np.bincount(shells[usable], minlength=shells.max() + 1)
    enough = is_b0 | (n_usable[shells] >= FEWEST_VOLUMES)
    step = np.where(is_b0, B0_STEP, VOLUME_STEP)
    limit = MANY_SD * left.sd
    whole = enough & (np.abs(judged[0]) > np.maximum(step, limit[0]))
    lost = enough & (judged[1:] - judged[0] < -np.maximum(SLICE_LOSS, limit[1:]))
    return [
        *_tell_b0(whole & is_b0, off[0]),
        *_tell_weighted(whole & ~is_b0, off[0]),
        *_tell_slices(lost),
    ]


def _tell_b0(odd: NDArray[np.bool_], off: NDArray[np.float64]) -> list[Issue]:
    if not odd.any():
        return []
    text = (
        "b0 images of a series must be equally bright, but the mean signal is another multiple of "
        f"the usual one in {_factors(odd, off)} (counted from 0)."
    )
    hint = (
        "If the series was joined from scans of different gain or scanners, map them separately "
        "or bring them to one scale; diffusivities are wrong otherwise."
    )
    return [Issue("warning", "b0_brightness", text, hint)]


def _tell_weighted(odd: NDArray[np.bool_], off: NDArray[np.float64]) -> list[Issue]:
    if not odd.any():
        return []
    text = (
        "Volumes of a shell must differ by their direction only, but the mean signal is another "
        f"multiple of what the others lead to expect in {_factors(odd, off)} (counted from 0)."
    )
    hint = "Look at them; remove from image and table those that movement or spikes spoilt."
    return [Issue("warning", "volume_brightness", text, hint)]


def _tell_slices(lost: NDArray[np.bool_]) -> list[Issue]:
    if not lost.any():
        return []
    volumes = np.flatnonzero(lost.any(axis=0))
    named = ", ".join(map(str, volumes[:10])) + (" ..." if len(volumes) > 10 else "")
    text = (
        f"{int(lost.sum())} of {lost.size} slices ({lost.mean():.1%}) have lost more than "
        f"{1 - np.exp(-SLICE_LOSS):.0%} of their signal, in volumes {named} (counted from 0)."
    )
    hint = "Movement does this; replace lost slices in preprocessing (FSL eddy --repol)."
    severe = lost.mean() > MANY_SLICES
    return [Issue("warning" if severe else "info", "slices_lost", text, hint)]


def _factors(odd: NDArray[np.bool_], off: NDArray[np.float64], limit: int = 5) -> str:
    volumes = np.flatnonzero(odd)
    named = ", ".join(f"{volume} ({np.exp(off[volume]):.2f})" for volume in volumes[:limit])
    more = f" and {len(volumes) - limit} more" if len(volumes) > limit else ""
    return f"{'volume' if len(volumes) == 1 else 'volumes'} {named}{more}"
