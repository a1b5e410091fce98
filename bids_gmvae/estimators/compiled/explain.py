"""The residuals of a fit, voxel by voxel, and how much of each datum's noise it followed."""

from __future__ import annotations

from numba import types

from bids_gmvae.estimators.compiled.likelihood import rician_moments
from bids_gmvae.estimators.compiled.voxel import (
    GAUSSIAN,
    Cube,
    DesignType,
    ScratchType,
    evaluate,
    factorise,
    linearise,
    substitute,
)
from bids_gmvae.signal_models.compiled import Equation, Matrix, Vector, jit


@jit()
def standardise(design, data, sigma, signal, squared):  # type: ignore[no-untyped-def]
    """Write squared residuals (n_data,) in units of the noise."""
    if design.noise == GAUSSIAN:
        for m in range(len(data)):
            squared[m] = (data[m] - signal[m]) ** 2 * design.counts[m] / sigma**2
        return
    for m in range(len(data)):
        mean, _, variance, _ = rician_moments(signal[m], sigma)
        squared[m] = (data[m] - mean) ** 2 * design.counts[m] / variance


@jit()
def invert(matrix, n, inverse):  # type: ignore[no-untyped-def]
    """Invert a positive semi-definite matrix after adding a ridge; overwrites it."""
    ridge = 1e-12
    for i in range(n):
        ridge = max(ridge, matrix[i, i])
    for i in range(n):
        matrix[i, i] += 1e-9 * ridge
    factorise(matrix, n)
    for i in range(n):
        inverse[i, :n] = 0.0
        inverse[i, i] = 1.0
        substitute(matrix, n, inverse[i])


@jit(
    types.void(
        Equation, DesignType, Matrix, Vector, Cube, types.int64[::1], ScratchType, Matrix,
        Matrix, Matrix,
    )
)  # fmt: skip
def explain(  # type: ignore[no-untyped-def]
    equation, design, data, sigma, prior_precision, shell, scratch, positions, squared, freedom
):
    """Sum standardised squared residuals, and degrees of freedom left, by shell.

    Parameters
    ----------
    equation, design, data, sigma, prior_precision, scratch, positions
        As in `maximise`; nothing but ``scratch`` is changed.
    shell : array of int of shape (n_data,)
        Shell of each datum.
    squared, freedom : array of shape (n_voxels, n_shells)
        Written.
    """
    n_parameters, n, n_data = len(design.parameters), len(scratch.rows), data.shape[1]
    gradient, curvature = scratch.small[4, :n], scratch.small[5 : 5 + n]
    inverse = scratch.small[5 + n : 5 + 2 * n]
    rows, factors = scratch.rows, scratch.small[1]
    information, left = scratch.data[2], scratch.data[3]
    for v in range(len(data)):
        evaluate(equation, design, positions[v], data[v], sigma[v], scratch)
        linearise(design, positions[v], scratch, gradient, curvature)
        for p in range(n_parameters):
            for q in range(n_parameters):
                curvature[1 + p, 1 + q] += prior_precision[v, p, q]
        invert(curvature, n, inverse)
        for m in range(n_data):
            left[m] = 0.0
        for i in range(n):
            for j in range(n):
                inverse[i, j] *= factors[i] * factors[j]
            # Two rows at a time: fewer passes over memory.
            for j in range(0, i + 1, 2):
                k = min(j + 1, i)
                first = inverse[i, j] * (1 if i == j else 2)
                second = 0.0 if k == j else inverse[i, k] * (1 if i == k else 2)
                for m in range(n_data):
                    left[m] += rows[i, m] * (first * rows[j, m] + second * rows[k, m])
        for m in range(n_data):
            left[m] = 1 - min(max(information[m] * left[m], 0.0), 1.0)
        # Nothing more is asked of the information: the row is free.
        standardise(design, data[v], sigma[v], scratch.data[4], information)
        squared[v] = 0.0
        freedom[v] = 0.0
        for m in range(n_data):
            squared[v, shell[m]] += information[m]
            freedom[v, shell[m]] += left[m]
