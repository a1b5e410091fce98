"""Moments and quantiles of mixtures, voxel by voxel, with values of latents from a table."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from numba import types

from bids_gmvae.estimators.compiled.voxel import Cube
from bids_gmvae.signal_models.base import Parameter
from bids_gmvae.signal_models.compiled import Matrix, Vector, jit

#: Tables reach so many spreads to both sides, with so many cubics per spread: right to 1e-7.
REACH, RESOLUTION = 12.0, 64
#: Components less probable than this do not count.
NEGLIGIBLE = 1e-7
#: Most steps to a quantile, which may be off by so much probability.
N_QUANTILE_STEPS, TOLERANCE = 20, 1e-5
#: Density of the standard normal at its mean, and what scales the argument of erf.
NORMAL, ERF = (2 * math.pi) ** -0.5, 0.5**0.5


@lru_cache(maxsize=32)
def tabulate(parameters: tuple[Parameter, ...]) -> Any:
    """Give the value of each latent as piecewise cubics.

    Returns
    -------
    array of shape (n_parameters, n_intervals, 4)
        Coefficients in the position within the interval, ascending.
    """
    n_intervals = round(2 * REACH * RESOLUTION)
    with torch.enable_grad():
        z = torch.linspace(-REACH, REACH, n_intervals + 1, dtype=torch.float64, requires_grad=True)
        tables = []
        for parameter in parameters:
            value = parameter.to_physical(z)
            slope = torch.autograd.grad(value.sum(), z)[0] / RESOLUTION
            left, into, out_of, rise = value[:-1], slope[:-1], slope[1:], value.diff()
            columns = [left, into, 3 * rise - 2 * into - out_of, into + out_of - 2 * rise]
            tables.append(torch.stack(columns, dim=1).detach())
    return torch.stack(tables).numpy()


@jit()
def look_up(table, z):  # type: ignore[no-untyped-def]
    """Give the value of a latent."""
    position = (min(max(z, -REACH), REACH) + REACH) * RESOLUTION
    index = max(0, min(int(position), len(table) - 1))  # also of what is no number
    x = position - index
    return table[index, 0] + x * (table[index, 1] + x * (table[index, 2] + x * table[index, 3]))


@jit(types.void(Matrix, Cube, Cube, Cube, Vector, Vector, Matrix, Matrix))
def sum_moments(  # type: ignore[no-untyped-def]
    responsibilities, means, spreads, tables, nodes, weights, mean, std
):
    """Write means and standard deviations (n_voxels, n_parameters) of values.

    Parameters
    ----------
    responsibilities : array of shape (n_voxels, n_components)
    means, spreads : arrays of shape (n_voxels, n_components, n_parameters)
        The mixture, along each latent.
    tables : array of shape (n_parameters, n_intervals, 4)
        See `tabulate`.
    nodes, weights : arrays of shape (n_nodes,)
        Quadrature rule of the standard normal.
    """
    for v in range(means.shape[0]):
        for p in range(means.shape[2]):
            # Values are centred before they are squared: D ~ 1e-3 would lose digits otherwise.
            centre = look_up(tables[p], means[v, 0, p])
            first, second = 0.0, 0.0
            for k in range(means.shape[1]):
                if responsibilities[v, k] < NEGLIGIBLE:
                    continue
                for j in range(len(nodes)):
                    z = means[v, k, p] + nodes[j] * spreads[v, k, p]
                    value = look_up(tables[p], z) - centre
                    weighted = responsibilities[v, k] * weights[j] * value
                    first += weighted
                    second += weighted * value
            mean[v, p] = centre + first
            std[v, p] = math.sqrt(max(second - first**2, 0.0))


@jit(types.void(Matrix, Cube, Cube, types.float64, Matrix))
def search_quantiles(responsibilities, means, spreads, probability, found):  # type: ignore[no-untyped-def]
    """Write the latents (n_voxels, n_parameters) that have so much probability below them."""
    for v in range(means.shape[0]):
        for p in range(means.shape[2]):
            mean, second = 0.0, 0.0
            for k in range(means.shape[1]):
                weight, m = responsibilities[v, k], means[v, k, p]
                mean += weight * m
                second += weight * (m**2 + spreads[v, k, p] ** 2)
            width = math.sqrt(max(second - mean**2, 0.0))
            # By Cantelli's inequality neither end is further from the mean.
            low, high = mean - 2.5 * width, mean + 2.5 * width
            z = mean - width if probability < 0.5 else mean + width
            for _ in range(N_QUANTILE_STEPS):
                below, density = 0.0, 1e-12
                for k in range(means.shape[1]):
                    if responsibilities[v, k] < NEGLIGIBLE:
                        continue
                    standard = (z - means[v, k, p]) / spreads[v, k, p]
                    below += responsibilities[v, k] * (1 + math.erf(standard * ERF)) / 2
                    height = math.exp(-(standard**2) / 2) / spreads[v, k, p]
                    density += responsibilities[v, k] * height * NORMAL
                excess = below - probability
                if excess < 0:
                    low = z
                else:
                    high = z
                z -= excess / density
                if not low <= z <= high:
                    z = (low + high) / 2
                if abs(excess) < TOLERANCE:
                    break
            found[v, p] = z


@jit(types.void(Matrix, Cube, Matrix))
def convert(latents, tables, values):  # type: ignore[no-untyped-def]
    """Write the values of latents (n_points, n_parameters)."""
    for i in range(latents.shape[0]):
        for p in range(latents.shape[1]):
            values[i, p] = look_up(tables[p], latents[i, p])
