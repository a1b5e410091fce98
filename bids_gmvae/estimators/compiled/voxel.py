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
    # Three rows by three rows: fewer passes over memory.
    for i in range(0, n, 3):
        a, b, c = i, min(i + 1, n - 1), min(i + 2, n - 1)
        sums = dots(rows[a], rows[b], rows[c], score)
        gradient[a], gradient[b], gradient[c] = sums
        products = own_weighted_dots(rows[a], rows[b], rows[c], fisher)
        information[a, a], information[b, a], information[c, a] = products[:3]
        information[b, b], information[c, b], information[c, c] = products[3:]
        for j in range(0, i, 3):
            d, e, f = j, j + 1, j + 2
            products = weighted_dots(
                (rows[a], rows[b], rows[c]), (rows[d], rows[e], rows[f]), fisher
            )
            information[a, d], information[a, e], information[a, f] = products[0]
            information[b, d], information[b, e], information[b, f] = products[1]
            information[c, d], information[c, e], information[c, f] = products[2]
    for i in range(n):
        gradient[i] *= factors[i]
        for j in range(i + 1):
            information[i, j] *= factors[i] * factors[j]
            information[j, i] = information[i, j]


@jit()
def own_weighted_dots(a, b, c, weight):  # type: ignore[no-untyped-def]
    """Sum the products of three vectors with each other."""
    aa, ba, ca, bb, cb, cc = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for m in range(len(weight)):
        x, y, z = a[m] * weight[m], b[m] * weight[m], c[m] * weight[m]
        aa += a[m] * x
        ba += b[m] * x
        ca += c[m] * x
        bb += b[m] * y
        cb += c[m] * y
        cc += c[m] * z
    return aa, ba, ca, bb, cb, cc


@jit()
def weighted_dots(first, second, weight):  # type: ignore[no-untyped-def]
    """Sum the products of each of three vectors with each of three others."""
    a, b, c = first
    d, e, f = second
    ad, ae, af, bd, be, bf, cd, ce, cf = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for m in range(len(weight)):
        x, y, z = d[m] * weight[m], e[m] * weight[m], f[m] * weight[m]
        ad += a[m] * x
        ae += a[m] * y
        af += a[m] * z
        bd += b[m] * x
        be += b[m] * y
        bf += b[m] * z
        cd += c[m] * x
        ce += c[m] * y
        cf += c[m] * z
    return (ad, ae, af), (bd, be, bf), (cd, ce, cf)


@jit()
def dots(a, b, c, vector):  # type: ignore[no-untyped-def]
    """Sum the products of each of three vectors with another."""
    x, y, z = 0.0, 0.0, 0.0
    for m in range(len(vector)):
        x += a[m] * vector[m]
        y += b[m] * vector[m]
        z += c[m] * vector[m]
    return x, y, z


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
    """Decompose a positive definite matrix into L D L', without roots.

    The lower half becomes L, the diagonal the inverse of D.
    """
    for i in range(n):
        for j in range(i):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = total
        pivot = matrix[i, i]
        for k in range(i):
            scaled = matrix[i, k] * matrix[k, k]
            pivot -= matrix[i, k] * scaled
            matrix[i, k] = scaled
        matrix[i, i] = 1 / pivot


@jit()
def substitute(factor, n, vector):  # type: ignore[no-untyped-def]
    """Solve for a vector, in place, with what `factorise` left."""
    for i in range(n):
        for k in range(i):
            vector[i] -= factor[i, k] * vector[k]
    for i in range(n - 1, -1, -1):
        vector[i] *= factor[i, i]
        for k in range(i + 1, n):
            vector[i] -= factor[k, i] * vector[k]
