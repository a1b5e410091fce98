"""The likelihood of shell means with the unweighted signal integrated out, compiled."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from bids_gmvae.likelihoods import ASYMPTOTIC_SNR, Rician
from bids_gmvae.signal_models.compiled import jit

#: Intervals per unit of SNR; the cubics between them are right to 1e-8.
RESOLUTION = 16


@lru_cache(maxsize=1)
def rician_cubics() -> Tensor:
    """Give mean and variance of a Rician of unit noise as piecewise cubics of its SNR.

    Returns
    -------
    Tensor of shape (n_intervals, 8)
        Coefficients of the mean in the position within the interval, ascending, then those of
        the variance, up to `ASYMPTOTIC_SNR`.
    """
    ratio = torch.arange(int(ASYMPTOTIC_SNR) * RESOLUTION + 1, dtype=torch.float64) / RESOLUTION
    noise = Rician(ratio, torch.ones_like(ratio))
    exact = 2 + ratio**2 - noise.mean**2, 2 * ratio - 2 * noise.mean * noise.mean_slope
    columns = []
    for value, slope in ((noise.mean, noise.mean_slope), exact):
        left, right = value[:-1], value[1:]
        into, out_of = slope[:-1] / RESOLUTION, slope[1:] / RESOLUTION
        rise = right - left
        columns += [left, into, 3 * rise - 2 * into - out_of, into + out_of - 2 * rise]
    return torch.stack(columns, dim=1)


@jit()
def marginal(  # type: ignore[no-untyped-def]
    relative, voxel, data, counts, sigma, cubics, log_s0, n_steps, longest, tolerance, out
):
    """Integrate S0 out (flat prior, Laplace), for several predictions of each row.

    Parameters
    ----------
    relative : array of shape (n_rows, n_nodes, n_data)
        Signals relative to S0.
    voxel : array of int of shape (n_rows,)
        Which voxel a row belongs to.
    data, sigma, log_s0 : array of shape (n_voxels, ...)
        Shell means, noise, and where to start.
    counts : array of shape (n_data,)
        Measurements per shell mean.
    cubics : array of shape (n_intervals, 8)
        See `rician_cubics`; none if the noise is normal.
    n_steps, longest, tolerance : int, float, float
        Most Newton steps in log S0, the longest step, and the gain (nats) at which to stop.
    out : array of shape (n_rows, n_nodes)
        Written: log-likelihood, nats.
    """
    n_data, n_intervals = data.shape[1], len(cubics)
    for row in range(relative.shape[0]):
        v = voxel[row]
        level = log_s0[v]
        for node in range(relative.shape[1]):
            for _ in range(n_steps):
                s0 = math.exp(level) / sigma[v]
                log_likelihood, slope, curvature = 0.0, 0.0, 0.0
                for m in range(n_data):
                    # All in units of the noise.
                    ratio = s0 * relative[row, node, m]
                    mean, by_mean, variance, by_variance = ratio, 1.0, 1.0, 0.0
                    position = ratio * RESOLUTION
                    if position < n_intervals:
                        c = cubics[int(position)]
                        x = position - int(position)
                        mean = c[0] + x * (c[1] + x * (c[2] + x * c[3]))
                        by_mean = (c[1] + x * (2 * c[2] + 3 * x * c[3])) * RESOLUTION
                        variance = c[4] + x * (c[5] + x * (c[6] + x * c[7]))
                        by_variance = (c[5] + x * (2 * c[6] + 3 * x * c[7])) * RESOLUTION
                    elif n_intervals > 0:
                        mean, by_mean = ratio + 0.5 / ratio, 1 - 0.5 / ratio**2
                        variance, by_variance = 1 - 0.5 / ratio**2, 1 / ratio**3
                    variance /= counts[m]
                    residual = data[v, m] / sigma[v] - mean
                    change = by_variance / counts[m] / variance / 2
                    score = residual * by_mean / variance + change * (residual**2 / variance - 1)
                    slope += score * ratio
                    curvature += (by_mean * ratio) ** 2 / variance
                    log_likelihood -= (residual**2 / variance + math.log(variance)) / 2
                curvature = max(curvature, 1e-12)
                step = min(max(slope / curvature, -longest), longest)
                level += step
                # What the last step gains is known to second order.
                gain = step * (slope - step * curvature / 2)
                out[row, node] = log_likelihood + gain - math.log(curvature) / 2 + level
                if gain < tolerance:
                    break
        for node in range(relative.shape[1]):
            out[row, node] -= n_data * math.log(sigma[v])
