"""What the direction of the gradient explains of the mean signals of volumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition

#: Fewer volumes cannot tell the effect of direction.
FEWEST_DIRECTIONS = 12
N_REWEIGHTED = 20
#: Smallest absolute deviation of logarithms that counts, against division by zero.
EXACT = 1e-3
#: Share of the largest power from which on a principal component is more than rounding.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Unexplained:
    """What neither shell nor direction explains of mean signals, (n_rows, n_volumes).

    Attributes
    ----------
    direction : array
        What the direction adds to the logarithm of a signal; 0 where not looked at.
    off : array
        Residuals of the logarithms; 0 where not looked at.
    judged : array
        The same, less where little signal is expected: along coherent fibres at high b the little
        that is left is known less well. By the ratio to the usual signal of the shell.
    sd : array
        Robust standard deviation of what is judged, over the shell.
    """

    direction: NDArray[np.float64]
    off: NDArray[np.float64]
    judged: NDArray[np.float64]
    sd: NDArray[np.float64]


def unexplained(
    logs: NDArray[np.float64],
    acquisition: Acquisition,
    shells: NDArray[np.intp],
    members: NDArray[np.bool_],
) -> Unexplained:
    """Explain mean signals by shells and directions, and give what is left.

    Every shell has a level of its own. Around it the logarithm of the signal depends on the
    direction as its cumulants do: by a tensor of second degree times b, and one of fourth degree
    times b squared. All shells share them, which is what few directions per shell can afford. The
    fit is one of least absolute deviation; the tensors are drawn towards 0.

    Parameters
    ----------
    logs : array of shape (n_rows, n_volumes)
        Logarithms of mean signals; each row is fitted by itself.
    acquisition : Acquisition
        Settings of the volumes.
    shells : array of int, shape (n_volumes,)
        To which shell each belongs.
    members : array of bool, shape (n_volumes,)
        Weighted volumes to be looked at.
    """
    known = logs[:, members]
    levels = (shells[members, None] == np.unique(shells[members])).astype(float)
    tensors = _tensors(acquisition, members)
    design = np.hstack([levels, tensors])
    ridge = np.diag([EXACT**3] * levels.shape[1] + [1.0] * tensors.shape[1])
    weights = np.ones_like(known)
    for _ in range(N_REWEIGHTED):
        weighted = weights[:, None] * design.T
        normal = weighted @ design + ridge
        coefficients = np.linalg.solve(normal, weighted @ known[..., None])[..., 0]
        expected = coefficients @ design.T
        weights = 1 / np.maximum(np.abs(known - expected), EXACT)
    leverage = np.einsum("vp,spv->sv", design, np.linalg.solve(normal, weighted))

    direction, off, judged, sd = np.zeros((4, *logs.shape))
    direction[:, members] = coefficients[:, levels.shape[1] :] @ tensors.T
    off[:, members] = known - expected
    for level in levels.T.astype(bool):
        volumes = np.flatnonzero(members)[level]
        usual = np.median(expected[:, level], axis=1, keepdims=True)
        judged[:, volumes] = off[:, volumes] * np.exp(np.minimum(expected[:, level] - usual, 0))
        sd[:, volumes] = _robust_sd(judged[:, volumes], leverage[:, level].sum(axis=1))
    return Unexplained(direction, off, judged, sd)


def _robust_sd(values: NDArray[np.float64], freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the robust sd around 0 of each row, (n_rows, 1).

    A fit passes through as many values as it has freedom; the median is that of the others.
    """
    ordered = np.sort(np.abs(values), axis=1)
    rank = np.clip((values.shape[1] + freedom) / 2, 0, values.shape[1] - 1).astype(int)
    return 1.4826 * np.take_along_axis(ordered, rank[:, None], axis=1)


def _tensors(acquisition: Acquisition, members: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give principal components of what the two tensors can do, (n_members, n_components)."""
    if "bvecs" not in acquisition or members.sum() < FEWEST_DIRECTIONS:
        return np.empty((int(members.sum()), 0))
    bvals = acquisition.bvals.cpu().double().numpy()[members]
    relative = np.sqrt(bvals / bvals.max())[:, None]
    bvecs = relative * acquisition.bvecs.cpu().double().numpy()[members]
    second = (bvecs @ bvecs.T) ** 2
    power, components = np.linalg.eigh(second + second**2)
    above = power > ROUNDING * power[-1]
    return components[:, above] * np.sqrt(power[above])
