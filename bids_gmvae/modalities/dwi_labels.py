"""Whether each volume has the signal that its b-value promises."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.modalities.base import Issue
from bids_gmvae.modalities.dwi_directions import unexplained

#: Least spread of the logarithm of mean signals within a shell that counts as natural.
LEAST_SPREAD = 0.05
#: b-values are compared if one is at least this many times the other ...
LEAST_RATIO = 2.0
#: ... and the signal is expected to drop by at least this much, in logarithms.
LEAST_DROP = 0.2
#: This many volumes of similar b-values (by the factor) are not doubted as a whole because others
#: are as dark: at the noise floor all b-values look alike.
MANY, SIMILAR = 4, 1.25
#: Volumes this far from what shell and direction explain are unlike their shell: in logarithms,
#: and in robust standard deviations of the shell.
FAR, MANY_SD = 0.3, 6.0
#: More than this share of contradictions means that the table belongs to other volumes.
WRONG_TABLE = 0.15


def check_labels(
    means: NDArray[np.float64],
    acquisition: Acquisition,
    usable: NDArray[np.bool_],
    settings: ModelSettings,
) -> list[Issue]:
    """Find volumes whose mean signal contradicts their b-value.

    Signals fall with b. Two volumes contradict each other if the one with the clearly higher
    b-value is not darker; the volumes with most contradictions are taken out until none is left.
    Volumes that differ from the rest of their shell are contradictions too. What the direction
    explains is taken off before, and only volumes of the same echo time are compared.

    Parameters
    ----------
    means : array of shape (n_volumes,)
        Mean signal over the mask.
    acquisition : Acquisition
        Settings of the volumes.
    usable : array of bool, shape (n_volumes,)
        Volumes with a positive mean.
    settings : ModelSettings
        Uses the b0 threshold and the shell tolerance.

    Returns
    -------
    list of Issue
        At most one finding, which names the volumes.
    """
    bvals = acquisition.bvals.cpu().double().numpy()
    logs = np.log(np.where(usable, means, 1.0))
    wrong = np.zeros(len(bvals), dtype=bool)
    shells = _shells(acquisition, settings)
    for group in _same_echo_time(acquisition):
        wrong |= _wrong(logs, acquisition, shells, usable & group, settings.b0_threshold)
    if not wrong.any():
        return []

    b0 = usable & (bvals <= settings.b0_threshold)
    fatal = wrong.sum() > WRONG_TABLE * usable.sum() or bool(wrong[b0].all())
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


def _same_echo_time(acquisition: Acquisition) -> list[NDArray[np.bool_]]:
    if "echo_times" not in acquisition:
        return [np.ones(len(acquisition), dtype=bool)]
    echo_times = acquisition.echo_times.cpu().numpy()
    return [echo_times == echo_time for echo_time in np.unique(echo_times)]


def _wrong(
    logs: NDArray[np.float64],
    acquisition: Acquisition,
    shells: NDArray[np.intp],
    usable: NDArray[np.bool_],
    b0_threshold: float,
) -> NDArray[np.bool_]:
    bvals = acquisition.bvals.cpu().double().numpy()
    weighted = usable & (bvals > b0_threshold)
    if weighted.sum() < 3 or not (usable & ~weighted).any():
        return np.zeros(len(logs), dtype=bool)
    logs = logs - unexplained(logs[None], acquisition, shells, weighted).direction[0]
    # From the brightest volume, because the b0 labels themselves may be wrong.
    decay = float(np.median((logs[usable].max() - logs[weighted]) / bvals[weighted]))
    spread = _spread(logs, shells, weighted)
    wrong = _contradicting(logs, bvals, usable, spread, decay, shells)
    return wrong | _outlying(logs, acquisition, shells, weighted & ~wrong)


def _shells(acquisition: Acquisition, settings: ModelSettings) -> NDArray[np.intp]:
    shells = find_shells(
        acquisition,
        b0_threshold=settings.b0_threshold,
        shell_tolerance=settings.shell_tolerance,
    )
    return shells.index.cpu().numpy()


def _spread(
    logs: NDArray[np.float64], shells: NDArray[np.intp], weighted: NDArray[np.bool_]
) -> float:
    """Estimate how much volumes of one shell differ by their directions, robustly."""
    residuals = []
    for shell in np.unique(shells[weighted]):
        members = logs[weighted & (shells == shell)]
        if len(members) >= MANY:
            residuals.append(members - np.median(members))
    if not residuals:
        return LEAST_SPREAD
    return max(LEAST_SPREAD, 3 * 1.4826 * float(np.median(np.abs(np.concatenate(residuals)))))


def _contradicting(
    logs: NDArray[np.float64],
    bvals: NDArray[np.float64],
    usable: NDArray[np.bool_],
    spread: float,
    decay: float,
    shells: NDArray[np.intp],
) -> NDArray[np.bool_]:
    """Take out volumes until no pair contradicts."""
    low, high = bvals[:, None], bvals[None, :]
    comparable = (high >= LEAST_RATIO * low) & ((high - low) * decay >= LEAST_DROP + spread)
    comparable &= usable[:, None] & usable[None, :]
    drop = logs[:, None] - logs[None, :]
    many = ((high <= SIMILAR * low) & (low <= SIMILAR * high) & usable).sum(axis=1) >= MANY
    large = many[:, None] & many[None, :]
    conflict = comparable & np.where(large, drop < -spread, drop < spread)
    conflict |= conflict.T
    oddity = np.zeros(len(bvals))
    for shell in np.unique(shells[usable]):
        members = usable & (shells == shell)
        oddity[members] = np.abs(logs[members] - np.median(logs[members]))
    wrong = np.zeros(len(bvals), dtype=bool)
    while conflict.any():
        # Of two volumes with as many contradictions, the one unlike its own shell is to blame.
        worst = np.lexsort((oddity, conflict.sum(axis=1)))[-1]
        wrong[worst] = True
        conflict[worst] = conflict[:, worst] = False
    return wrong


def _outlying(
    logs: NDArray[np.float64],
    acquisition: Acquisition,
    shells: NDArray[np.intp],
    candidates: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    left = unexplained(logs[None], acquisition, shells, candidates)
    enough = np.bincount(shells[candidates], minlength=shells.max() + 1)[shells] > MANY
    far = np.abs(left.judged[0]) > np.maximum(FAR, MANY_SD * left.sd[0])
    return candidates & enough & far


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
