"""Whether what is left of fluid at high b-values is noise as the likelihood expects it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.modalities.base import Issue

#: Mean over standard deviation of the magnitude of noise alone.
NOISE_ALONE = math.sqrt(math.pi / (4 - math.pi))
#: Nine of ten voxels of fluid exceed this where the floor is too high. Of sound data none does:
#: two compartments, 10 to 80 volumes and signal-to-noise ratios of 10 to 100 gave 1.3 to 1.8.
TOO_HIGH = 2.0
#: Slowest decay of what is still taken for fluid, mm^2/s, and water at body temperature.
FLUID, WATER = 2.8e-3, 3e-3
#: Signal of fluid at the lower b-value, relative to none, that leaves no doubt that it decays.
DECAYED = 0.5
FEWEST_VOLUMES, FEWEST_VOXELS = 6, 20
#: About as many volumes are enough, and cost less than all.
ENOUGH_VOLUMES = 64
#: Volumes from this share of the highest b-value on are looked at, if it is so many times the
#: lower b-value.
HIGHEST, APART = 0.75, 1.5
#: From this error of the usual signal on it is more than a note.
MUCH = 0.02


def late_volumes(
    bvals: NDArray[np.float64], early: NDArray[np.bool_], max_b: float | None
) -> NDArray[np.bool_]:
    """Choose volumes in which fluid has no signal left.

    Parameters
    ----------
    bvals : array of shape (n_volumes,)
        Diffusion weighting, s/mm^2.
    early : array of bool, shape (n_volumes,)
        The shell in which fluid still has signal; may be empty.
    max_b : float, optional
        Volumes of higher b-values are not used for maps.

    Returns
    -------
    array of bool, shape (n_volumes,)
        Enough of them; none if there are too few.
    """
    late = np.zeros(len(bvals), dtype=bool)
    used = bvals <= (np.inf if max_b is None else max_b)
    if (early & used).any():
        least = max(HIGHEST * bvals[used].max(), APART * bvals[early].mean())
        found = np.flatnonzero(used & (bvals >= least))
        if len(found) >= FEWEST_VOLUMES:
            late[found[:: math.ceil(len(found) / ENOUGH_VOLUMES)]] = True
    return late


def check_floor(
    b0: NDArray[np.float64],
    early: NDArray[np.float64],
    late: NDArray[np.float64],
    late_sd: NDArray[np.float64],
    early_b: float,
    late_b: float,
) -> list[Issue]:
    """Compare the signal that fluid ends in with its scatter.

    Magnitudes of noise alone have a mean of 1.9 standard deviations. Several coils, a constant,
    and filters that reduce the noise but not its mean (denoising, interpolation) raise this.
    Between it and the signals of tissue, kurtosis rises, and the residuals stay small.

    Parameters
    ----------
    b0, early, late : array of shape (n_voxels,)
        Mean signal without, with moderate and with high weighting; NaN is left out.
    late_sd : array of shape (n_voxels,)
        Standard deviation of the signals with high weighting.
    early_b, late_b : float
        Their b-values, the latter the lowest of them, s/mm^2.

    Returns
    -------
    list of Issue
        At most one; none without voxels of fluid.
    """
    if not np.isfinite(b0).any():
        return []
    # Less the later signal, else a floor would hide the fluid from which it can be told.
    fluid = (
        (b0 >= np.nanmedian(b0))
        & (early <= DECAYED * b0)
        & (early - late <= b0 * math.exp(-FLUID * early_b))
        & (b0 * math.exp(-WATER * late_b) <= late_sd)
        & (late_sd > 0)
    )
    n_fluid = int(fluid.sum())
    if n_fluid < FEWEST_VOXELS or np.quantile(late[fluid] / late_sd[fluid], 0.1) <= TOO_HIGH:
        return []
    floor, sd, usual = np.median(late[fluid]), np.median(late_sd[fluid]), np.nanmedian(late)
    # A constant adds to all signals; noise adds its square, and tissue hides most of that.
    most = (floor - NOISE_ALONE * sd) / usual
    least = min((floor**2 - (NOISE_ALONE * sd) ** 2) / (2 * usual**2), most)
    text = (
        f"Where fluid has lost its signal ({n_fluid} voxels at b = {late_b:.0f} s/mm^2), the mean "
        f"of noise alone would be {NOISE_ALONE:.1f} times its sd, but it is {floor / sd:.1f} "
        f"times; the usual signal there is too high by {least:.1%} (noise of several coils, or "
        f"denoised, or interpolated) to {most:.1%} (a constant added)."
    )
    hint = (
        "Kurtosis is too large then, and its sd too small: leave high b-values out with --max-b, "
        "or denoise complex images, or correct the Rician floor in preprocessing."
    )
    return [Issue("warning" if least >= MUCH else "info", "noise_floor", text, hint)]
