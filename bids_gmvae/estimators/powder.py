r"""Shell averages for signal models without orientation, freed from what anisotropy adds to them.

The mean of magnitudes over a shell is what such models describe. In anisotropic tissue the
signals differ between directions, and because the Rician mean is convex, averaging them after
the noise floor has bent them biases the average upwards. The excess depends only on how much
the signals spread over directions.

Single shells say little about that spread, but it grows with the b-value in a known way: the
signal is taken as proportional to :math:`\exp(-b \Delta (g \cdot n)^2)` on every shell, which has
one unknown, :math:`\Delta`. It is found from the power of the second-degree harmonics of all
shells together, less what noise adds to that power, and need not be a fibre's: where fibres
cross or fan out it is what spreads the signals as much. The squared :math:`\Delta` may come out
negative, lest isotropic tissue on average be corrected.

All that is left of a run are matrix products and a table over the mean and the spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, one_hot

from bids_gmvae.acquisition import Acquisition, Shells, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.likelihoods import Rician, invert_rician_mean

#: Fewest directions of a shell from which its spread is estimated.
MIN_DIRECTIONS = 7
N_HARMONICS = 5
N_GAUSS_NEWTON = 4
#: Squared anisotropy, (um^2/ms)^2: where the search starts, and its sd before anything is seen.
#: A wide one; it is why a run at the noise floor is taken as isotropic.
START, PRIOR_SD = 0.5, 3.0
#: Mean magnitude of pure noise, in units of its sd.
FLOOR = (torch.pi / 2) ** 0.5
#: Nodes of the table over the level and, for either sign, the spread; largest `_stretch` of it.
N_LEVELS, N_SPREADS, WIDEST = 48, 40, 5.5
N_COSINES = 48


@dataclass(frozen=True, eq=False)
class ShellMeans:
    """Shell averages of one run.

    Attributes
    ----------
    means : Tensor of shape (n_voxels, n_shells)
        Mean magnitude of each shell, freed from the excess of anisotropic tissue.
    sigma : Tensor of shape (n_voxels,)
        Noise sd of a single measurement.
    counts : Tensor of shape (n_shells,)
        Measurements per shell.
    acquisition : Acquisition
        Settings of the shells.
    shells : Shells
        The grouping.
    """

    means: Tensor
    sigma: Tensor
    counts: Tensor
    acquisition: Acquisition
    shells: Shells


def average_shells(run: Measurements, settings: ModelSettings) -> ShellMeans:
    """Average each shell of a run.

    Shells with fewer than `MIN_DIRECTIONS` measurements, or whose directions do not determine a
    quadratic form, are averaged and no more.

    Parameters
    ----------
    run : Measurements
        Signals of shape (n_voxels, n_measurements).
    settings : ModelSettings
        Shell tolerance, b0 threshold and noise model.

    Returns
    -------
    ShellMeans
        One column per shell.
    """
    shells = find_shells(
        run.acquisition,
        b0_threshold=settings.b0_threshold,
        shell_tolerance=settings.shell_tolerance,
    )
    projections = [one_hot(shells.index).to(run.signals) / shells.counts.to(run.signals)]
    spread: list[int] = []
    noise = []
    if settings.noise_model == "rician" and "bvecs" in run.acquisition:
        for shell in range(len(shells)):
            members = shells.index == shell
            inverse = invert_harmonics(run.acquisition.bvecs[members].double())
            if shells.is_b0[shell] or inverse is None:
                continue
            projection = run.signals.new_zeros(len(members), N_HARMONICS)
            projection[members] = inverse.to(projection)
            projections.append(projection)
            covariance = inverse.T @ inverse
            noise.append(torch.stack([covariance.trace(), (covariance**2).sum()]))
            spread.append(shell)
    # One product reads the signals once.
    projected = run.signals @ torch.cat(projections, dim=1)
    means = projected[:, : len(shells)]
    if spread:
        sigma = run.sigma[:, None]
        harmonics = projected[:, len(shells) :].unflatten(1, (-1, N_HARMONICS))
        excess = anisotropy_excess(
            means[:, spread] / sigma,
            (harmonics**2).sum(dim=2) / sigma**2,
            noise=torch.stack(noise, dim=1).to(means),
            bvals=shells.acquisition.bvals[spread].to(means),
        )
        means = means.clone()
        means[:, spread] -= sigma * excess
    return ShellMeans(
        means, run.sigma, shells.counts.to(run.sigma), shells.acquisition.to(run.sigma), shells
    )


def anisotropy_excess(means: Tensor, power: Tensor, *, noise: Tensor, bvals: Tensor) -> Tensor:
    """Estimate by how much anisotropy raises the mean magnitude of shells.

    Parameters
    ----------
    means : Tensor of shape (n_voxels, n_shells)
        Mean magnitudes, in units of the noise sd.
    power : Tensor of shape (n_voxels, n_shells)
        Summed squares of the coefficients of `quadratic_basis`, in units of the noise variance.
    noise : Tensor of shape (2, n_shells)
        Traces of the coefficients' covariance, for noise of variance 1, and of its square.
    bvals : Tensor of shape (n_shells,)
        Diffusion weighting, s/mm^2.

    Returns
    -------
    Tensor of shape (n_voxels, n_shells)
        mean_i E(signal_i) - E(mean_i signal_i), in units of the noise sd.
    """
    level = means - FLOOR
    squared_level = level.clamp(min=0) ** 2
    squared_b = (bvals / 1000) ** 2
    trace, squared_trace = noise
    anisotropy = torch.full_like(means[:, :1], START)
    for _ in range(N_GAUSS_NEWTON):
        relative_power, slope, _, variance = _look_up(level, anisotropy * squared_b)
        expected = squared_level * relative_power
        slope = squared_level * slope * squared_b
        # Of a sum of squares of normal variables, whose mean power is spread over them evenly.
        uncertainty = 2 * squared_trace * variance**2
        uncertainty = uncertainty + 4 / N_HARMONICS * trace * variance * expected.abs()
        residual = power - trace * variance - expected
        gradient = (slope * residual / uncertainty).sum(dim=1, keepdim=True)
        information = (slope**2 / uncertainty).sum(dim=1, keepdim=True)
        step = (gradient - anisotropy / PRIOR_SD**2) / (information + 1 / PRIOR_SD**2)
        anisotropy = anisotropy + step
    return level * _look_up(level, anisotropy * squared_b)[2]


def invert_harmonics(bvecs: Tensor) -> Tensor | None:
    """Give the least-squares estimate of the harmonics of a shell, as a matrix.

    Parameters
    ----------
    bvecs : Tensor of shape (n_directions, 3)
        Unit vectors.

    Returns
    -------
    Tensor of shape (n_directions, 5) or None
        Signals times it are coefficients of `quadratic_basis`; None if the directions do not
        determine them.
    """
    design = torch.cat([torch.ones_like(bvecs[:, :1]), quadratic_basis(bvecs)], dim=1)
    if len(bvecs) < MIN_DIRECTIONS or torch.linalg.matrix_rank(design) < design.shape[1]:
        return None
    return torch.linalg.pinv(design)[1:].T


def quadratic_basis(bvecs: Tensor) -> Tensor:
    """Give the five traceless quadratic forms of directions, each of mean square 1.

    Parameters
    ----------
    bvecs : Tensor of shape (n_directions, 3)
        Unit vectors.

    Returns
    -------
    Tensor of shape (n_directions, 5)
        Real spherical harmonics of degree 2, without the factor of the surface measure.
    """
    x, y, z = bvecs.unbind(-1)
    forms = [x * y, y * z, x * z, (x**2 - y**2) / 2, (3 * z**2 - 1) / (2 * 3**0.5)]
    return 15**0.5 * torch.stack(forms, dim=-1)


def _look_up(level: Tensor, spread: Tensor) -> Tensor:
    """Interpolate `_table`: four tensors of the common shape of level and spread."""
    table = _table().to(level)
    position = torch.stack([_stretch(spread) / WIDEST, 2 / (1 + level.clamp(min=0)) - 1], dim=-1)
    return grid_sample(table[None], position[None], padding_mode="border", align_corners=True)[0]


def _stretch(spread: Tensor) -> Tensor:
    return torch.sign(spread) * torch.log1p(spread.abs() / 2)


@lru_cache(maxsize=1)
def _table() -> Tensor:
    r"""Tabulate magnitudes with noise of sd 1 whose signals go as :math:`\exp(-c u^2)`.

    Returns
    -------
    Tensor of shape (4, N_LEVELS, 2 * N_SPREADS - 1)
        Power of the second-degree harmonic over the squared level; its derivative with respect
        to :math:`c^2`; excess over level; variance. Level is the mean magnitude above `FLOOR`;
        rows go with 1 / (1 + level), columns with `_stretch` of :math:`c^2`. Both ratios have
        limits at either end of the rows, and are continued to negative :math:`c^2` as odd.
    """
    f64 = torch.float64
    inverse = torch.linspace(0, 1, N_LEVELS, dtype=f64).clamp(1e-3, 1 - 1e-3)[:, None]
    level = (1 - inverse) / inverse
    stretched = torch.linspace(0, WIDEST, N_SPREADS, dtype=f64)
    spread = 2 * torch.expm1(stretched)
    cosine = (torch.arange(N_COSINES, dtype=f64) + 0.5) / N_COSINES
    shape = torch.exp(-spread.sqrt()[:, None] * cosine**2)
    shape = shape / shape.mean(dim=1, keepdim=True)
    one = torch.ones((), dtype=f64)
    # Convex, and too high at the start: Newton's method comes down to the root.
    signal = invert_rician_mean(level + FLOOR, one).expand(-1, N_SPREADS)
    for _ in range(6):
        rician = Rician(signal[..., None] * shape, one)
        slope = (rician.mean_slope * shape).mean(dim=-1)
        signal = signal - (rician.mean.mean(dim=-1) - level - FLOOR) / slope
    rician = Rician(signal[..., None] * shape, one)
    harmonic = 5**0.5 * (3 * cosine**2 - 1) / 2
    power = ((rician.mean * harmonic).mean(dim=-1) / level) ** 2
    excess = 1 - (Rician(signal, one).mean - FLOOR) / level
    change = torch.gradient(power, spacing=(stretched,), dim=1, edge_order=2)[0]
    change = change / (2 * torch.exp(stretched))
    variance = rician.variance.mean(dim=-1)
    half = torch.stack([power, change, excess, variance])
    mirrored = half[..., 1:].flip(-1) * torch.tensor([-1, 1, -1, 1])[:, None, None]
    return torch.cat([mirrored, half], dim=-1)
