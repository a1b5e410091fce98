"""Acquisition schemes: by name, or from bval and bvec files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from dipy.core.sphere import HemiSphere, disperse_charges
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import InputError, UnknownNameError
from bids_gmvae.io.gradients import read_bvals, read_bvecs
from bids_gmvae.simulation.catalogue import SCHEMES, Scheme

#: What a scanner's b-values scatter by, s/mm^2 (995, 1000, 1005).
JITTER = (-5.0, 0.0, 5.0)


def get_scheme(name: str, *, seed: int = 0, jitter: bool = False) -> Acquisition:
    """Build the acquisition of a named scheme.

    Parameters
    ----------
    name : str
        Key of `SCHEMES`.
    seed : int
        Of the directions and their order.
    jitter : bool
        Scatter the non-zero b-values by -5, 0 or +5 s/mm^2.

    Returns
    -------
    Acquisition
        ``bvals``, ``bvecs`` (electrostatic repulsion, each shell by itself) and ``echo_times``,
        float64. The first volume is a b0; further ones are spread evenly over the scan and the
        shells are interleaved.

    Raises
    ------
    UnknownNameError
        If there is no such scheme; lists what there is.

    Examples
    --------
    >>> acquisition = get_scheme("short")
    >>> len(acquisition), acquisition.bvals[0].item()
    (32, 0.0)
    """
    if name not in SCHEMES:
        raise UnknownNameError.of("scheme", name, SCHEMES)
    scheme = SCHEMES[name]
    rng = np.random.default_rng(seed)
    blocks = [_block(scheme, echo_time, rng) for echo_time in scheme.echo_times]
    bvals, bvecs, echo_times = (np.concatenate(column) for column in zip(*blocks, strict=True))
    if jitter:
        bvals = bvals + np.where(bvals > 0, rng.choice(JITTER, len(bvals)), 0.0)
    return Acquisition(
        bvals=torch.from_numpy(bvals),
        bvecs=torch.from_numpy(bvecs),
        echo_times=torch.from_numpy(echo_times),
    )


def read_scheme(bval_path: Path, bvec_path: Path | None = None) -> Acquisition:
    """Read a scheme from files in FSL's layout.

    Parameters
    ----------
    bval_path : Path
        b-values, s/mm^2.
    bvec_path : Path, optional
        Directions; taken along the scanner's axes (right, anterior, superior).

    Returns
    -------
    Acquisition
        ``bvals`` and, if given, ``bvecs`` scaled to unit length (zero stays zero), float64.

    Raises
    ------
    InputError
        If a file cannot be read or the two do not match.
    """
    bvals = read_bvals(bval_path)
    if bvec_path is None:
        return Acquisition(bvals=torch.from_numpy(bvals))
    bvecs, _ = read_bvecs(bvec_path)
    if len(bvecs) != len(bvals):
        raise InputError(
            f"{bvec_path} must have as many directions as {bval_path} has b-values, "
            f"{len(bvals)}, but has {len(bvecs)}."
        )
    norms = np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvecs = np.divide(bvecs, norms, out=np.zeros_like(bvecs), where=norms > 1e-3)
    return Acquisition(bvals=torch.from_numpy(bvals), bvecs=torch.from_numpy(bvecs))


def spread_directions(n_directions: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Spread axes over the half sphere by electrostatic repulsion.

    Parameters
    ----------
    n_directions : int
        How many.
    rng : numpy Generator
        Of the start, and of the side of the sphere each axis points to.

    Returns
    -------
    array of shape (n_directions, 3)
        Unit vectors.
    """
    vectors = rng.standard_normal((n_directions, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if n_directions > 1:
        vectors = disperse_charges(HemiSphere(xyz=vectors), iters=500)[0].vertices
    return vectors * rng.choice((-1.0, 1.0), (n_directions, 1))


def _block(
    scheme: Scheme, echo_time: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    bvals = np.concatenate([np.full(count, b) for b, count in scheme.shells])
    bvecs = np.concatenate([spread_directions(count, rng) for _, count in scheme.shells])
    order = rng.permutation(len(bvals))
    # The k-th b0 stands before this weighted volume.
    before = np.round(np.arange(scheme.n_b0) * len(bvals) / scheme.n_b0).astype(int)
    bvals = np.insert(bvals[order], before, 0.0)
    bvecs = np.insert(bvecs[order], before, 0.0, axis=0)
    return bvals, bvecs, np.full(len(bvals), echo_time)
