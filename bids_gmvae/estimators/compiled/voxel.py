"""One voxel: prediction, likelihood and its linearisation in the tangent (log S0, z, tilt).

The compiled counterpart of `bids_gmvae.estimators.problem`. The position of a voxel is the vector
(log S0, latents, orientation), the orientation of directional models only.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types

from bids_gmvae.estimators.compiled.likelihood import averaged_rician, gaussian, rician
from bids_gmvae.signal_models.base import WALL
from bids_gmvae.signal_models.compiled import Matrix, Vector, jit

Cube = types.float64[:, :, ::1]
#: Codes of likelihoods.
GAUSSIAN, RICIAN, AVERAGED_RICIAN = 0, 1, 2


class Design(NamedTuple):
    """What all voxels share.

    Attributes
    ----------
    noise : int
        Code of the likelihood.
    settings : array of shape (n_settings, n_data)
        What the equation takes.
    bvecs : array of shape (3, n_data), or (3, 0) of models without orientation
    counts : array of shape (n_data,)
        Measurements averaged in each datum.
    parameters : array of shape (n_parameters, 7)
        `Parameter.bijection` of each.
    """

    noise: int
    settings: Any
    bvecs: Any
    counts: Any
    parameters: Any


class Scratch(NamedTuple):
    """Arrays that every voxel writes anew: compiled code makes none.

    Attributes
    ----------
    rows : array of shape (n_tangent, n_data)
        What the equation writes, then the Jacobian.
    data : array of shape (5, n_data)
        Cosine, score, information, a row for any use, and the signal.
    small : array of shape (5 + 2 n_tangent, n_tangent + 1)
        Values, factors, a position, a step, a gradient; two matrices.
    """

    rows: Any
    data: Any
    small: Any


DesignType = types.NamedTuple((types.int64, Matrix, Matrix, Vector, Matrix), Design)
ScratchType = types.NamedUniTuple(Matrix, 3, Scratch)


@jit()
def to_physical(z, parameter):  # type: ignore[no-untyped-def]
    """Give the value of a latent and its derivative, like `Parameter.to_physical`."""
    scale, low, high = parameter[0], parameter[1], parameter[2]
    center, spread, lower, upper = parameter[3], parameter[4], parameter[5], parameter[6]
    slope = spread
    if not math.isinf(low):
        u, v = (z - low) / WALL, (high - z) / WALL
        bend = math.log1p(math.exp(-abs(u))) - math.log1p(math.exp(-abs(v)))
        z = low + WALL * (min(max(u, 0.0), (high - low) / WALL) + bend)
        slope *= 1 / (1 + math.exp(-u)) - 1 / (1 + math.exp(v))
    scaled = z * spread + center
    if scale == 0:
        return scaled, slope
    if scale == 1:
        value = math.exp(scaled)
        return value, slope * value
    share = 1 / (1 + math.exp(-scaled))
    width = upper - lower
    return lower + width * share, slope * width * share * (1 - share)


@jit()
def evaluate(equation, design, position, data, sigma, scratch):  # type: ignore[no-untyped-def]
    """Predict the data and give their log-likelihood."""
    n_parameters = len(design.parameters)
    values, factors = scratch.small[0, :n_parameters], scratch.small[1]
    s0 = math.exp(position[0])
    factors[:] = s0
    for p in range(n_parameters):
        values[p], slope = to_physical(position[1 + p], design.parameters[p])
        factors[1 + p] *= slope
    cosine, score, information = scratch.data[0], scratch.data[1], scratch.data[2]
    if design.bvecs.shape[1] > 0:
        x, y, z = orientation_of(position)
        for m in range(len(data)):
            cosine[m] = x * design.bvecs[0, m] + y * design.bvecs[1, m] + z * design.bvecs[2, m]
    equation(values, design.settings, cosine, scratch.rows)
    signal = scratch.data[4]
    for m in range(len(data)):
        signal[m] = s0 * scratch.rows[0, m]
    if design.noise == GAUSSIAN:
        return gaussian(signal, data, design.counts, sigma, score, information)
    if design.noise == RICIAN:
        return rician(signal, data, sigma, score, information)
    return averaged_rician(signal, data, design.counts, sigma, score, information)


@jit()
def linearise(design, position, scratch, gradient, information):  # type: ignore[no-untyped-def]
    """Sum gradient and information of the position last evaluated, once.

    Leaves the Jacobian in ``scratch.rows``, each up to its factor, ``scratch.small[1]``.
    """
    rows = scratch.rows
    if design.bvecs.shape[1] > 0:
        by_cosine = rows[len(rows) - 2]
        for axis in (1, 0):  # the first overwrites what both need
            x, y, z = tangent(position, axis)
            out = rows[len(rows) - 2 + axis]
            for m in range(len(by_cosine)):
                along = x * design.bvecs[0, m] + y * design.bvecs[1, m] + z * design.bvecs[2, m]
                out[m] = along * by_cosine[m]
    score, fisher, factors = scratch.data[1], scratch.data[2], scratch.small[1]
    n = len(rows)
    for i in range(n):
        gradient[i] = factors[i] * dot(rows[i], score)
    # Two rows by two rows: fewer passes over memory.
    for i in range(0, n, 2):
        k = min(i + 1, n - 1)
        for j in range(0, i + 1, 2):
            m = min(j + 1, n - 1)
            sums = weighted_dots(rows[i], rows[k], rows[j], rows[m], fisher)
            information[i, j] = information[j, i] = factors[i] * factors[j] * sums[0]
            information[i, m] = information[m, i] = factors[i] * factors[m] * sums[1]
            information[k, j] = information[j, k] = factors[k] * factors[j] * sums[2]
            information[k, m] = information[m, k] = factors[k] * factors[m] * sums[3]


@jit()
def weighted_dots(a, b, c, d, weight):  # type: ignore[no-untyped-def]
    """Sum the products of each of two vectors with each of two others."""
    ac, ad, bc, bd = 0.0, 0.0, 0.0, 0.0
    for m in range(len(weight)):
        x, y = a[m] * weight[m], b[m] * weight[m]
        ac += x * c[m]
        ad += x * d[m]
        bc += y * c[m]
        bd += y * d[m]
    return ac, ad, bc, bd


@jit()
def dot(a, b):  # type: ignore[no-untyped-def]
    """Sum the products of two vectors."""
    total = 0.0
    for m in range(len(a)):
        total += a[m] * b[m]
    return total


@jit()
def orientation_of(position):  # type: ignore[no-untyped-def]
    """Give the orientation, the end of a position."""
    return position[-3], position[-2], position[-1]


@jit()
def tangent(position, axis):  # type: ignore[no-untyped-def]
    """Give one of the two unit vectors of `bids_gmvae.estimators.problem.tangent_plane`."""
    x, y, z = orientation_of(position)
    sign = 1.0 if z >= 0 else -1.0
    a = -1 / (sign + z)
    if axis == 0:
        return 1 + sign * x * x * a, sign * x * y * a, -sign * x
    return x * y * a, sign + y * y * a, -y


@jit()
def move(position, step, n_parameters, moved):  # type: ignore[no-untyped-def]
    """Walk along a tangent vector."""
    for i in range(1 + n_parameters):
        moved[i] = position[i] + step[i]
    if len(position) > 1 + n_parameters:
        x, y, z = orientation_of(position)
        for axis in range(2):
            along = tangent(position, axis)
            tilt = step[1 + n_parameters + axis]
            x, y, z = x + tilt * along[0], y + tilt * along[1], z + tilt * along[2]
        length = math.sqrt(x * x + y * y + z * z)
        moved[-3], moved[-2], moved[-1] = x / length, y / length, z / length


@jit()
def factorise(matrix, n):  # type: ignore[no-untyped-def]
    """Replace the lower half of a positive definite matrix by its Cholesky factor."""
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = math.sqrt(total) if i == j else total / matrix[j, j]


@jit()
def substitute(factor, n, vector):  # type: ignore[no-untyped-def]
    """Solve for a vector, in place, with what `factorise` left."""
    for i in range(n):
        for k in range(i):
            vector[i] -= factor[i, k] * vector[k]
        vector[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            vector[i] -= factor[k, i] * vector[k]
        vector[i] /= factor[i, i]
