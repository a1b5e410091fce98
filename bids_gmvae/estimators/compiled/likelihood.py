"""The likelihood of one voxel and its derivatives with respect to the noiseless signal.

The compiled counterpart of `bids_gmvae.likelihoods` and of `Problem.evaluate`, of which
constants that depend on the data alone are left out. Every function takes the noiseless signal
(n_data,) and writes score and Fisher information (n_data,) of it; it returns the log-likelihood.
"""

from __future__ import annotations

import math

from bids_gmvae.estimators.compiled.bessel import scaled_bessel
from bids_gmvae.likelihoods import ASYMPTOTIC_SNR, INFORMATION
from bids_gmvae.signal_models.compiled import jit

#: Up to 2^5 scaled Bessel functions are multiplied; they would have to fall below 1e-9 each to
#: leave the range of numbers, at 1e17 times the noise.
HALVINGS = 5

C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12 = INFORMATION


@jit()
def gaussian(signal, data, counts, sigma, score, information):  # type: ignore[no-untyped-def]
    """Evaluate a normal likelihood."""
    precision = 1 / sigma**2
    misfit = 0.0
    for m in range(len(data)):
        residual = data[m] - signal[m]
        weight = precision * counts[m]
        misfit += weight * residual**2
        score[m] = weight * residual
        information[m] = weight
    return -misfit / 2


@jit()
def rician(signal, data, sigma, score, information):  # type: ignore[no-untyped-def]
    """Evaluate a Rician likelihood."""
    precision = 1 / sigma**2
    misfit = 0.0
    for m in range(len(data)):
        zeroth, first = scaled_bessel(signal[m] * data[m] * precision)
        information[m] = zeroth
        score[m] = (data[m] * first / zeroth - signal[m]) * precision
        misfit += (data[m] - signal[m]) ** 2
    # Logarithms are dear: multiply the later half into the earlier one, some times over.
    n = len(data)
    for _ in range(HALVINGS):
        half = n // 2
        for m in range(half):
            information[m] *= information[n - half + m]
        n -= half
    log_bessel = 0.0
    for m in range(n):
        log_bessel += math.log(information[m])
    for m in range(len(data)):
        squared = signal[m] ** 2 * precision
        x = squared / (squared + 2)
        information[m] = x * precision * (C0 + x * (C1 + x * (C2 + x * (C3 + x * (C4 + x * (
            C5 + x * (C6 + x * (C7 + x * (C8 + x * (C9 + x * (C10 + x * (C11 + x * C12)))))))))
        )))  # fmt: skip
    return log_bessel - precision * misfit / 2


@jit()
def averaged_rician(signal, data, counts, sigma, score, information):  # type: ignore[no-untyped-def]
    """Evaluate means of Rician data as normal, with the moments of a Rician."""
    log_likelihood = 0.0
    for m in range(len(data)):
        mean, mean_slope, variance, variance_slope = rician_moments(signal[m], sigma)
        variance /= counts[m]
        residual = data[m] - mean
        change = variance_slope / counts[m] / variance / 2
        score[m] = residual * mean_slope / variance + change * (residual**2 / variance - 1)
        information[m] = mean_slope**2 / variance
        log_likelihood -= (residual**2 / variance + math.log(variance)) / 2
    return log_likelihood


@jit()
def rician_moments(signal, sigma):  # type: ignore[no-untyped-def]
    """Give mean and variance of a magnitude, each with its slope, like `Rician`."""
    ratio = signal / sigma
    t = ratio**2 / 4
    zeroth, first = scaled_bessel(t)
    mean = sigma * math.sqrt(math.pi / 2) * ((1 + 2 * t) * zeroth + 2 * t * first)
    mean_slope = math.sqrt(math.pi / 8) * ratio * (zeroth + first)
    inverse = 1 / max(ratio, 1e-12) ** 2
    high = 1.0 if ratio > ASYMPTOTIC_SNR else 0.0
    series = sigma**2 * (1 - min(inverse, 1.0) / 2 - min(inverse, 1.0) ** 2)
    variance = high * series + (1 - high) * (2 * sigma**2 + signal**2 - mean**2)
    series = sigma * min(inverse, 1.0) * math.sqrt(min(inverse, 1.0))
    slope = high * series + (1 - high) * 2 * (signal - mean * mean_slope)
    return mean, mean_slope, variance, slope
