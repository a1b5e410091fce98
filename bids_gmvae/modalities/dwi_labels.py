"""Whether each volume has the signal that its b-value promises."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.modalities.base import Issue

#: Least spread of the logarithm of mean signals within a shell that counts as natural.
LEAST_SPREAD = 0.05
#: b-values are compared if one is at least this many times the other ...
LEAST_RATIO = 2.0
#: ... and the signal is expected to drop by at least this much, in logarithms.
LEAST_DROP = 0.2
#: Shells of this size are not doubted as a whole: at the noise floor all shells look alike.
LARGE_SHELL = 4
#: More than this share of contradictions means that the table belongs to other volumes.
WRONG_TABLE = 0.15


def check_labels(
    means: NDArray[np.float64],
    bvals: NDArray[np.float64],
    usable: NDArray[np.bool_],
    settings: ModelSettings,
) -> list[Issue]:
    """Find volumes whose mean signal contradicts their b-value.

    Signals fall with b. Two volumes contradict each other if the one with the clearly higher
    b-value is not darker; the volumes with most contradictions are taken out until none is left.
    Volumes that differ from the rest of their shell are contradictions too.

    Parameters
    ----------
    means : array of shape (n_volumes,)
        Mean signal over the mask.
    bvals : array of shape (n_volumes,)
        b-values, s/mm^2.
    usable : array of bool, shape (n_volumes,)
        Volumes with a positive mean.
    settings : ModelSettings
        Uses the b0 threshold and the shell tolerance.

    Returns
    -------
    list of Issue
        At most one finding, which names all volumes.
    """
    b0 = usable & (bvals <= settings.b0_threshold)
    weighted = usable & (bvals > settings.b0_threshold)
    if not b0.any() or weighted.sum() < 3:
        return []
    logs = np.log(np.where(usable, means, means[usable].min()))
    shells = _shells(bvals, settings)
    spread = _spread(logs, shells, weighted)
    wrong = _contradicting(logs, bvals, shells, usable, spread, _decay(logs, bvals, weighted))
    wrong |= _outlying(logs, shells, weighted & ~wrong)
    if not wrong.any():
        return []

    share = wrong.sum() / usable.sum()
    fatal = share > WRONG_TABLE or bool(wrong[b0].all())
    named = "; ".join(
        _describe(volume, logs, bvals, usable & ~wrong, shells)
        for volume in np.flatnonzero(wrong)[:5]
    )
    more = f"; and {int(wrong.sum()) - 5} more" if wrong.sum() > 5 else ""
    text = (
        "The signal must fall with the b-value, but the mean signal of "
        f"{int(wrong.sum())} of {int(usable.sum())} volumes contradicts the table: "
        f"{named}{more} (volumes counted from 0)."
    )
    hint = (
        "The b-values seem to belong to other volumes; check their order against the scanner's "
        "protocol."
        if fatal
        else "Correct the .bval file, or remove the volumes if they are damaged."
    )
    return [Issue("error" if fatal else "warning", "bvals_contradict_signal", text, hint)]


def _shells(bvals: NDArray[np.float64], settings: ModelSettings) -> NDArray[np.intp]:
    acquisition = Acquisition(bvals=torch.from_numpy(bvals))
    shells = find_shells(
        acquisition,
        b0_threshold=settings.b0_threshold,
        shell_tolerance=settings.shell_tolerance,
    )
    return shells.index.numpy()


def _spread(
    logs: NDArray[np.float64], shells: NDArray[np.intp], weighted: NDArray[np.bool_]
) -> float:
    """Estimate how much volumes of one shell differ by their directions, robustly."""
    residuals = []
    for shell in np.unique(shells[weighted]):
        members = logs[weighted & (shells == shell)]
        if len(members) >= LARGE_SHELL:
            residuals.append(members - np.median(members))
    if not residuals:
        return LEAST_SPREAD
    return max(LEAST_SPREAD, 3 * 1.4826 * float(np.median(np.abs(np.concatenate(residuals)))))


def _decay(
    logs: NDArray[np.float64], bvals: NDArray[np.float64], weighted: NDArray[np.bool_]
) -> float:
    """Estimate the decay of the logarithm per s/mm^2 that most volumes show."""
    # From the brightest volume, because the b0 labels themselves may be wrong.
    return float(np.median((logs.max() - logs[weighted]) / bvals[weighted]))


def _contradicting(
    logs: NDArray[np.float64],
    bvals: NDArray[np.float64],
    shells: NDArray[np.intp],
    usable: NDArray[np.bool_],
    spread: float,
    decay: float,
) -> NDArray[np.bool_]:
    """Take out volumes until no pair contradicts."""
    low, high = bvals[:, None], bvals[None, :]
    comparable = (high >= LEAST_RATIO * low) & ((high - low) * decay >= LEAST_DROP + spread)
    comparable &= usable[:, None] & usable[None, :]
    drop = logs[:, None] - logs[None, :]
    sizes = np.bincount(shells)[shells]
    large = (sizes[:, None] >= LARGE_SHELL) & (sizes[None, :] >= LARGE_SHELL)
    conflict = comparable & np.where(large, drop < -spread, drop < spread)
    conflict |= conflict.T
    wrong = np.zeros(len(bvals), dtype=bool)
    while conflict.any():
        worst = int(conflict.sum(axis=1).argmax())
        wrong[worst] = True
        conflict[worst] = conflict[:, worst] = False
    return wrong


def _outlying(
    logs: NDArray[np.float64], shells: NDArray[np.intp], candidates: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    wrong = np.zeros(len(logs), dtype=bool)
    for shell in np.unique(shells[candidates]):
        members = candidates & (shells == shell)
        if members.sum() <= LARGE_SHELL:
            continue
        distance = np.abs(logs - np.median(logs[members]))
        scale = 1.4826 * float(np.median(distance[members]))
        wrong |= members & (distance > max(6 * scale, 0.3))
    return wrong


def _describe(
    volume: int,
    logs: NDArray[np.float64],
    bvals: NDArray[np.float64],
    right: NDArray[np.bool_],
    shells: NDArray[np.intp],
) -> str:
    """Say which b-value the signal of a volume looks like."""
    levels = {
        shell: (float(np.median(logs[members])), float(np.mean(bvals[members])))
        for shell in np.unique(shells[right])
        if (members := right & (shells == shell)).any()
    }
    level, b = min(levels.values(), key=lambda pair: abs(pair[0] - logs[volume]))
    if abs(level - logs[volume]) < 0.15 and abs(b - bvals[volume]) > 0.2 * bvals[volume]:
        return f"volume {volume} (b = {bvals[volume]:g}) has the signal of b = {b:.0f} s/mm^2"
    same = right & (shells == shells[volume])
    if same.any():
        ratio = float(np.exp(logs[volume] - np.median(logs[same])))
        return (
            f"volume {volume} has {ratio:.2g} times the signal of the others with "
            f"b = {bvals[volume]:g} s/mm^2"
        )
    return f"volume {volume} (b = {bvals[volume]:g} s/mm^2)"
