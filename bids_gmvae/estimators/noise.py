"""How noisy each voxel is, from what no tissue could have caused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.likelihoods import Rician, invert_rician_mean

#: Signals of which the span of tissue is learnt.
N_FIBRES, N_BALLS = 2000, 500
#: Root mean square, relative to S0, of what the span may leave of a coherent fibre.
NEGLIGIBLE = 0.002
#: Where the protocol cannot afford that, this share of the measurements is left for the noise ...
SHARE_FOR_NOISE = 1 / 8
FEWEST_FREE = 3
#: ... unless a fibre would be taken for noise: relative to S0.
TOO_MUCH = 0.05
N_FIXED_POINT = 6
#: Mean magnitude of pure noise, and steps of the table from there on, in units of its sd.
FLOOR = (torch.pi / 2) ** 0.5
TABLE_STEP, TABLE_SIZE = 0.02, 2000


@dataclass(frozen=True, eq=False)
class ResidualVariance:
    """Variance of the measurements around the span of tissue signals, by shell.

    Attributes
    ----------
    variance : Tensor of shape (n_voxels, n_groups)
        Of the magnitudes, squared unit of the signals. Groups are shells; one group of all
        measurements where too few shells have degrees of freedom of their own.
    level, spread : Tensor of shape (n_voxels, n_shells)
        Mean and standard deviation of the fitted magnitudes over the directions of a shell.
    share : Tensor of shape (n_groups, n_shells)
        Part of the degrees of freedom of a group that lies in each shell.
    """

    variance: Tensor
    level: Tensor
    spread: Tensor
    share: Tensor

    @classmethod
    def concatenate(cls, parts: list[ResidualVariance]) -> ResidualVariance:
        """Join consecutive chunks of voxels."""
        return cls(
            torch.cat([part.variance for part in parts]),
            torch.cat([part.level for part in parts]),
            torch.cat([part.spread for part in parts]),
            parts[0].share,
        )


def residual_variance(
    signals: Tensor, acquisition: Acquisition, settings: ModelSettings
) -> ResidualVariance:
    """Project the measurements on the span of tissue signals, and measure what is left.

    Parameters
    ----------
    signals : Tensor of shape (n_voxels, n_measurements)
        Magnitudes.
    acquisition : Acquisition
        Settings of the measurements.
    settings : ModelSettings
        Shell tolerance and b0 threshold.

    Returns
    -------
    ResidualVariance
        By shell.

    Raises
    ------
    AcquisitionError
        If the measurements are too few to tell noise from tissue.
    """
    shells = find_shells(
        acquisition, b0_threshold=settings.b0_threshold, shell_tolerance=settings.shell_tolerance
    )
    span = tissue_span(acquisition).to(signals)
    fitted = (signals @ span) @ span.T
    by_shell = torch.nn.functional.one_hot(shells.index, len(shells)).to(signals)
    squared = (signals - fitted) ** 2 @ by_shell
    free = (1 - (span**2).sum(dim=1)) @ by_shell
    level = fitted @ by_shell / by_shell.sum(dim=0)
    spread = (fitted**2 @ by_shell / by_shell.sum(dim=0) - level**2).clamp(min=0).sqrt()

    groups = torch.diag(free)[free >= FEWEST_FREE]
    if len(groups) < FEWEST_FREE:
        groups = free[None]
    share = groups / groups.sum(dim=1, keepdim=True)
    variance = squared @ (groups > 0).to(signals).T / groups.sum(dim=1)
    return ResidualVariance(variance, level, spread, share)


def noise_sigma(
    residual: ResidualVariance, smooth: Callable[[Tensor], Tensor], *, noise_model: str
) -> Tensor:
    """Turn residual variances into the standard deviation of the noise.

    The median over shells forgives one with artefacts. The magnitude of pure noise varies only
    0.43 times as much as the noise itself; a fixed point finds the level at which the residuals
    are as large as they are.

    Parameters
    ----------
    residual : ResidualVariance
        By voxel and shell.
    smooth : callable
        Averages each column (n_voxels, n_columns) over neighbours: single voxels have few
        degrees of freedom, coil noise varies slowly.
    noise_model : str
        ``rician`` or ``gaussian``.

    Returns
    -------
    Tensor of shape (n_voxels,)
        Unit of the signals.
    """
    variance = raw = smooth(residual.variance)
    for _ in range(0 if noise_model == "gaussian" else N_FIXED_POINT):
        sigma = torch.quantile(variance, 0.5, dim=1, keepdim=True).sqrt()
        sigma = sigma.clamp(min=torch.finfo(sigma.dtype).tiny ** 0.25)
        # Directions differ, and the variance is not linear in the signal: two points
        # stand for their distribution.
        ends = torch.stack([residual.level - residual.spread, residual.level + residual.spread])
        ratio = _variance_at(ends / sigma).mean(dim=0) @ residual.share.T
        variance = raw / smooth(ratio)
    return torch.quantile(variance, 0.5, dim=1).sqrt()


def _variance_at(mean: Tensor) -> Tensor:
    """Give the variance of magnitudes of known mean, both for noise of sd 1.

    A table stands for the inversion of the mean, to 2e-4; beyond it the variance is 1.
    """
    table = _variance_table().to(mean)
    position = ((mean - FLOOR) / TABLE_STEP).clamp(0, len(table) - 1.001)
    # A voxel that is not finite stays so, but cannot be looked up.
    index = torch.where(position.isnan(), 0, position).long()
    return torch.lerp(table[index], table[index + 1], position - index)


@lru_cache(maxsize=1)
def _variance_table() -> Tensor:
    mean = FLOOR + TABLE_STEP * torch.arange(TABLE_SIZE, dtype=torch.float64)
    one = torch.ones_like(mean)
    return Rician(invert_rician_mean(mean, one), one).variance


def tissue_span(acquisition: Acquisition) -> Tensor:
    """Span the signals that tissue can give, as far as the measurements allow.

    Fibres of all orientations and compartments of all diffusivities are principal components of
    few dimensions, and with them all their mixtures: crossings, dispersion, partial volume,
    perfusion. Repeated measurements need no special case: they share a component.

    Parameters
    ----------
    acquisition : Acquisition
        Settings of the measurements.

    Returns
    -------
    Tensor of shape (n_measurements, n_components)
        Orthonormal columns, float64, on the CPU.

    Raises
    ------
    AcquisitionError
        If a fibre sticks out of what can be spanned.
    """
    signals = _tissue_signals(acquisition)
    n = len(acquisition)
    power, components = torch.linalg.eigh(signals.T @ signals / len(signals))
    free = torch.arange(1, n + 1)
    left = (power.clamp(min=0).cumsum(dim=0) / free).sqrt()
    fewest = max(FEWEST_FREE, round(SHARE_FOR_NOISE * n))
    if n < fewest or left[fewest - 1] > TOO_MUCH:
        raise AcquisitionError(
            "The noise level cannot be estimated: no b-value has enough repeats or "
            f"directions ({n} volumes).",
            "Give the noise standard deviation with --noise-map PATH.",
        )
    n_free = max(fewest, int((left <= NEGLIGIBLE).sum()))
    return components[:, n_free:]


def _tissue_signals(acquisition: Acquisition) -> Tensor:
    """Give signals of fibres and balls relative to S0, (n_signals, n_measurements)."""
    generator = torch.Generator().manual_seed(0)

    def uniform(n: int, lower: float, upper: float) -> Tensor:
        drawn = torch.rand(n, 1, generator=generator, dtype=torch.float64)
        return lower + (upper - lower) * drawn

    columns = acquisition.to("cpu", torch.float64)
    exponent = columns.bvals * 10 ** uniform(N_BALLS, -5, -1)
    if "bvecs" in columns:
        fibre = torch.randn(N_FIBRES, 3, generator=generator, dtype=torch.float64)
        fibre = torch.nn.functional.normalize(fibre, dim=1)
        axial = uniform(N_FIBRES, 0.8e-3, 2.8e-3)
        radial = axial * uniform(N_FIBRES, 0, 0.6)
        along = (fibre @ columns.bvecs.T) ** 2
        exponent = torch.cat([exponent, columns.bvals * (radial + (axial - radial) * along)])
    if "echo_times" in columns:
        delay = columns.echo_times - columns.echo_times.min()
        exponent = exponent + delay / 10 ** uniform(len(exponent), -2, 0.5)
    return torch.exp(-exponent)
