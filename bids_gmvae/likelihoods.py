"""Noise models: what is measured when the noiseless signal is known.

Each is a `torch.distributions.Distribution` that can also say, per measurement, how the
log-likelihood changes with the noiseless signal (the score) and how much it tells about it
(the Fisher information). That is all the estimators need; they make no other assumption.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints
from torch.special import i0e, i1e

from bids_gmvae.exceptions import UnknownNameError

#: Above this ratio of signal to noise the asymptotic variance is exact to double precision.
ASYMPTOTIC_SNR = 20.0


class Gaussian(Normal):
    """Signal plus normal noise."""

    def __init__(self, signal: Tensor, sigma: Tensor, validate_args: bool | None = False) -> None:
        super().__init__(signal, sigma, validate_args=validate_args)

    @property
    def mean_slope(self) -> Tensor:
        """Derivative of the mean with respect to the noiseless signal."""
        return torch.ones_like(self.loc)

    @property
    def variance_slope(self) -> Tensor:
        """Derivative of the variance with respect to the noiseless signal."""
        return torch.zeros_like(self.loc)

    def score(self, value: Tensor) -> Tensor:
        """Differentiate `log_prob` with respect to the noiseless signal."""
        return (value - self.loc) / self.scale**2

    @property
    def information(self) -> Tensor:
        """Fisher information about the noiseless signal."""
        return 1 / self.scale**2


class Rician(Distribution):
    """Magnitude of a complex signal with independent normal noise in both channels.

    Parameters
    ----------
    signal : Tensor
        Noiseless magnitude.
    sigma : Tensor
        Standard deviation of the noise in each channel, broadcastable with ``signal``.

    References
    ----------
    Gudbjartsson and Patz 1995, https://doi.org/10.1002/mrm.1910340618
    """

    arg_constraints = {"signal": constraints.nonnegative, "sigma": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative

    def __init__(self, signal: Tensor, sigma: Tensor, validate_args: bool | None = False) -> None:
        self.signal, self.sigma = torch.broadcast_tensors(signal, sigma)
        super().__init__(self.signal.shape, validate_args=validate_args)

    @cached_property
    def _bessel(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give t = (signal / 2 sigma)^2 and its scaled Bessel functions: the costly part."""
        t = (self.signal / (2 * self.sigma)) ** 2
        return t, i0e(t), i1e(t)

    @cached_property
    def mean(self) -> Tensor:
        """Expected magnitude."""
        t, zeroth, first = self._bessel
        return self.sigma * (torch.pi / 2) ** 0.5 * ((1 + 2 * t) * zeroth + 2 * t * first)

    @property
    def mean_slope(self) -> Tensor:
        """Derivative of the mean with respect to the noiseless signal."""
        _, zeroth, first = self._bessel
        return (torch.pi / 8) ** 0.5 * self.signal / self.sigma * (zeroth + first)

    @property
    def variance(self) -> Tensor:
        """Variance of the magnitude."""
        ratio = self.signal / self.sigma
        # The exact expression cancels at high SNR, where the series is exact.
        inverse = 1 / ratio.clamp(min=ASYMPTOTIC_SNR) ** 2
        series = self.sigma**2 * (1 - inverse / 2 - inverse**2)
        exact = 2 * self.sigma**2 + self.signal**2 - self.mean**2
        return torch.where(ratio > ASYMPTOTIC_SNR, series, exact)

    @property
    def variance_slope(self) -> Tensor:
        """Derivative of the variance with respect to the noiseless signal."""
        high = self.signal > ASYMPTOTIC_SNR * self.sigma
        series = (self.sigma / self.signal.clamp(min=1e-12 * self.sigma)) ** 3 * self.sigma
        exact = 2 * self.signal - 2 * self.mean * self.mean_slope
        return torch.where(high, series, exact)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of magnitudes."""
        variance = self.sigma**2
        z = self.signal * value / variance
        tiny = torch.finfo(z.dtype).tiny
        misfit = -((value - self.signal) ** 2) / (2 * variance)
        return torch.log(value.clamp(min=tiny) / variance) + misfit + torch.log(i0e(z))

    def score(self, value: Tensor) -> Tensor:
        """Differentiate `log_prob` with respect to the noiseless signal."""
        z = self.signal * value / self.sigma**2
        return (value * i1e(z) / i0e(z) - self.signal) / self.sigma**2

    @property
    def information(self) -> Tensor:
        """Fisher information about the noiseless signal."""
        return _information_factor(self.signal / self.sigma) / self.sigma**2

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw magnitudes."""
        shape = self._extended_shape(torch.Size(sample_shape))
        real = self.signal + self.sigma * torch.randn(shape).to(self.signal)
        imaginary = self.sigma * torch.randn(shape).to(self.signal)
        return torch.hypot(real, imaginary)


NOISE_MODELS: dict[str, type[Gaussian] | type[Rician]] = {"gaussian": Gaussian, "rician": Rician}


def get_noise_model(name: str) -> type[Gaussian] | type[Rician]:
    """Give the noise model of that name."""
    try:
        return NOISE_MODELS[name]
    except KeyError:
        raise UnknownNameError.of("noise model", name, NOISE_MODELS) from None


def invert_rician_mean(mean: Tensor, sigma: Tensor, *, n_steps: int = 8) -> Tensor:
    """Find the noiseless signal whose expected magnitude is ``mean``.

    Parameters
    ----------
    mean, sigma : Tensor
        Broadcastable. Means at or below the noise floor give 0.
    n_steps : int
        Newton steps; eight reach double precision from the start used here.

    Returns
    -------
    Tensor
        Same unit and shape as ``mean``.
    """
    mean, sigma = torch.broadcast_tensors(mean, sigma)
    floor = sigma * (torch.pi / 2) ** 0.5
    above = mean > floor
    target = torch.where(above, mean, 2 * floor)
    # Near the floor the mean grows as floor (1 + signal^2 / 4 sigma^2), far above as the signal.
    near = 2 * sigma * torch.sqrt(target / floor - 1)
    far = torch.sqrt((target**2 - sigma**2).clamp(min=0))
    signal = torch.where(target < 2 * sigma, near, far)
    for _ in range(n_steps):
        rician = Rician(signal, sigma)
        slope = rician.mean_slope.clamp(min=1e-6)
        signal = (signal - (rician.mean - target) / slope).clamp(min=1e-6 * sigma)
    return torch.where(above, signal, torch.zeros_like(signal))


#: Chebyshev interpolation, in x = r^2 / (r^2 + 2), of sigma^2 times the Rician information over x,
#: at ratios r of signal to sigma; ascending powers, right to 1e-5.
INFORMATION = (
    2.0000005471669002, -2.000175344108008, 4.007070075570177, -12.0315231292396,
    41.70174228108776, -144.05861348273692, 413.7061874330806, -894.8776704533141,
    1379.3857456566175, -1450.7601422711768, 982.2217683204225, -383.7927731140928,
    65.49838085561942,
)  # fmt: skip


def _information_factor(ratio: Tensor) -> Tensor:
    squared = ratio**2
    x = squared / (squared + 2)
    factor = torch.zeros_like(x)
    for coefficient in reversed(INFORMATION):
        factor = coefficient + x * factor
    return x * factor
