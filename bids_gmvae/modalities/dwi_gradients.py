"""Whether gradient directions fit the anatomy: fibres go on where they point to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.modalities.base import Issue

#: Diffusion tensors are fitted up to this b-value, s/mm^2; if that is too little, to the second.
TENSOR_B = (1600.0, 3100.0)
#: Most voxels looked at: enough for a clear answer within a second.
MOST_VOXELS = 60_000
#: Anisotropy from which on a voxel has one main fibre direction.
LEAST_ANISOTROPY = 0.2
LEAST_VOXELS = 300
#: Another table is better if it is so by this factor, at this many standard errors, and if there
#: is coherence at all (0.02 to 0.09 in brains; muscle seen in thick slices has none).
LEAST_GAIN, LEAST_T, LEAST_COHERENCE = 1.5, 5.0, 0.015

_AXES = "ijk"
_OFFSETS = np.array([offset for offset in itertools.product((-1, 0, 1), repeat=3) if any(offset)])
#: All ways to exchange axes and to negate one: the errors that tables have in practice.
_VARIANTS = [
    (order, flip)
    for order in itertools.permutations(range(3))
    for flip in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
]


def check_gradients(
    signals: NDArray,
    mask: NDArray[np.bool_],
    bvals: NDArray[np.float64],
    bvecs: NDArray[np.float64],
    usable: NDArray[np.bool_],
    b0_threshold: float,
    *,
    voxel_size: Sequence[float],
) -> list[Issue]:
    """Compare the gradient table with its variants (axes exchanged or negated).

    Fibre directions change less along the fibre than across it. If they do so clearly more
    after axes of the table were exchanged or negated, the table is in another frame.

    Parameters
    ----------
    signals : array of shape (n_voxels, n_volumes)
        The voxels of ``mask``, in C order.
    mask : array of bool, 3-D
        Voxels to be mapped.
    bvals : array of shape (n_volumes,)
        b-values, s/mm^2.
    bvecs : array of shape (n_volumes, 3)
        Unit vectors along the image axes.
    usable : array of bool, shape (n_volumes,)
        Volumes with signal.
    b0_threshold : float
        b-values up to this count as b0, s/mm^2.
    voxel_size : sequence of float
        Edges of a voxel, mm; only their ratios matter.

    Returns
    -------
    list of Issue
        A warning if another table fits clearly better.
    """
    design = _design(bvals, bvecs, usable, b0_threshold)
    if design is None:
        return []
    volumes, matrix = design
    near = _central(mask, MOST_VOXELS)
    fibres, anisotropy = _principal_directions(signals[near[mask]][:, volumes], matrix)
    coherence = _coherence(near, fibres, anisotropy, np.asarray(voxel_size, dtype=float))
    if coherence is None:
        return []
    given, means = coherence[0], coherence.mean(axis=1)
    best = int(means.argmax())
    gain = coherence[best] - given
    error = float(gain.std()) / np.sqrt(len(gain))
    if (
        means[best] < LEAST_COHERENCE
        or means[best] < LEAST_GAIN * means[0]
        or gain.mean() < LEAST_T * error
    ):
        return []
    text = (
        "Fibre directions must run on from voxel to voxel, but they do so better (coherence "
        f"{means[best]:.3f} instead of {means[0]:.3f}) after the gradient table was changed: "
        f"{_spell(*_VARIANTS[best])}."
    )
    hint = "Correct the .bvec file; directions of fibres cannot be trusted as they are."
    return [Issue("warning", "gradient_frame", text, hint)]


def _design(
    bvals: NDArray[np.float64],
    bvecs: NDArray[np.float64],
    usable: NDArray[np.bool_],
    b0_threshold: float,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]] | None:
    """Choose volumes that determine a tensor; give them and the inverse of their design."""
    for highest in TENSOR_B:
        volumes = usable & (bvals <= highest)
        if (volumes & (bvals > b0_threshold)).sum() < 6:
            continue
        b, (x, y, z) = bvals[volumes] / 1000, bvecs[volumes].T
        products = [x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z]
        design = np.column_stack([np.ones_like(b), *(-b * product for product in products)])
        if np.linalg.matrix_rank(design, tol=1e-3 * np.sqrt(len(b))) == 7:
            return volumes, np.linalg.pinv(design)[1:]
    return None


def _central(mask: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """Keep the voxels of a mask that are nearest to its centre; neighbours stay together."""
    voxels = np.argwhere(mask)
    if len(voxels) <= most:
        return mask
    distance = np.abs(voxels - np.median(voxels, axis=0)).max(axis=1)
    near = np.zeros_like(mask)
    near[tuple(voxels[np.argsort(distance, kind="stable")[:most]].T)] = True
    return near


def _principal_directions(
    signals: NDArray, inverse: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit tensors; give their first eigenvectors and fractional anisotropies."""
    signals = np.nan_to_num(signals.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    floor = np.maximum(signals.max(axis=1, keepdims=True) * 1e-3, np.finfo(np.float32).tiny)
    xx, yy, zz, xy, xz, yz = inverse @ np.log(np.maximum(signals, floor)).T.astype(np.float64)
    tensors = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=-1).reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(tensors)
    values = np.maximum(values, 0)
    variance = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    power = np.maximum((values**2).sum(axis=1), np.finfo(float).tiny)
    return vectors[:, :, 2], np.sqrt(1.5 * variance / power)


def _coherence(
    mask: NDArray[np.bool_],
    fibres: NDArray[np.float64],
    anisotropy: NDArray[np.float64],
    voxel_size: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    """Score each variant in each anisotropic voxel: array (n_variants, n_voxels).

    The similarity to a neighbour does not depend on the variant; where the neighbour lies
    relative to the fibre does. The score is large if similar neighbours lie along the fibre.
    """
    index = np.full(np.array(mask.shape) + 2, -1)
    index[1:-1, 1:-1, 1:-1][mask] = np.arange(len(fibres))
    centers = np.argwhere(mask)[anisotropy > LEAST_ANISOTROPY] + 1
    if len(centers) < LEAST_VOXELS:
        return None
    neighbours = np.stack([index[tuple((centers + offset).T)] for offset in _OFFSETS], axis=1)
    own = fibres[anisotropy > LEAST_ANISOTROPY]
    similarity = np.einsum("vx,vnx->vn", own, fibres[neighbours]) ** 2 * anisotropy[neighbours]
    present = neighbours >= 0
    # Centred per offset and per voxel: only the pattern around a voxel counts, not that
    # corners are further away than faces, nor how homogeneous the place is.
    similarity = _centred(_centred(similarity, present, axis=0), present, axis=1)
    weight = anisotropy[anisotropy > LEAST_ANISOTROPY]
    steps = _OFFSETS * voxel_size
    directions = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    scores = np.empty((len(_VARIANTS), len(own)))
    for number, (order, flip) in enumerate(_VARIANTS):
        alignment = np.square((own[:, order] * flip) @ directions.T)
        alignment *= alignment
        scores[number] = weight * np.einsum("vn,vn->v", alignment, similarity)
    return scores


def _centred(
    values: NDArray[np.float64], present: NDArray[np.bool_], *, axis: int
) -> NDArray[np.float64]:
    count = np.maximum(present.sum(axis=axis, keepdims=True), 1)
    mean = np.where(present, values, 0).sum(axis=axis, keepdims=True) / count
    return np.where(present, values - mean, 0)


def _spell(order: tuple[int, ...], flip: tuple[int, ...]) -> str:
    parts = []
    if order != (0, 1, 2):
        taken = ", ".join(_AXES[axis] for axis in order)
        parts.append(f"components taken in the order {taken}")
    if -1 in flip:
        parts.append(f"component {_AXES[flip.index(-1)]} negated")
    return " and ".join(parts)
