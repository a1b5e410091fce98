"""How noisy each voxel is, from the residuals of a smooth fit to its own measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.powder import quadratic_basis
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.likelihoods import Rician, invert_rician_mean

#: Measurements per coefficient needed before a shell gets a higher-order fit.
MEASUREMENTS_PER_COEFFICIENT = 1.6
#: Whatever a smooth fit misses, it finds noise too large, and more so in strongly weighted
#: shells: the quieter shells tell. A low quantile over shells is hardly biased by chance.
QUIET_QUANTILE = 0.25
N_FIXED_POINT = 6


@dataclass(frozen=True, eq=False)
class ResidualVariance:
    """Variance of the residuals of smooth fits, by shell.

    Attributes
    ----------
    variance : Tensor of shape (n_voxels, n_shells)
        Of the magnitudes, squared unit of the signals.
    level, spread : Tensor of shape (n_voxels, n_shells)
        Mean and standard deviation of the fitted magnitudes over the directions of a shell.
    """

    variance: Tensor
    level: Tensor
    spread: Tensor

    @classmethod
    def concatenate(cls, parts: list[ResidualVariance]) -> ResidualVariance:
        """Join consecutive chunks of voxels."""
        return cls(
            torch.cat([part.variance for part in parts]),
            torch.cat([part.level for part in parts]),
            torch.cat([part.spread for part in parts]),
        )


def residual_variance(
    signals: Tensor, acquisition: Acquisition, settings: ModelSettings
) -> ResidualVariance:
    """Fit every shell smoothly over the sphere, and measure what is left.

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
        One column per shell with more measurements than its fit has coefficients; if there is
        none, one column of a tensor fit over all measurements.

    Raises
    ------
    AcquisitionError
        If not even that leaves a degree of freedom.
    """
    shells = find_shells(
        acquisition, b0_threshold=settings.b0_threshold, shell_tolerance=settings.shell_tolerance
    )
    variances, levels, spreads = [], [], []
    for shell in range(len(shells)):
        members = shells.index == shell
        values = signals[:, members]
        design = _design(values.shape[1], acquisition, members, bool(shells.is_b0[shell]))
        if design is None:
            continue
        orthogonal, _ = torch.linalg.qr(design.to(signals))
        fitted = (values @ orthogonal) @ orthogonal.T
        freedom = values.shape[1] - design.shape[1]
        variances.append(((values - fitted) ** 2).sum(dim=1) / freedom)
        levels.append(fitted.mean(dim=1))
        spreads.append(fitted.std(dim=1, correction=0))
    if variances:
        return ResidualVariance(*(torch.stack(x, dim=1) for x in (variances, levels, spreads)))
    design = _tensor_design(acquisition).to(signals)
    if len(acquisition) - design.shape[1] < 3:
        raise AcquisitionError(
            "The noise level cannot be estimated: no b-value has enough repeats or "
            f"directions ({len(acquisition)} volumes).",
            "Give the noise standard deviation with --noise-map PATH.",
        )
    variance = _tensor_residual_variance(signals, design)
    level = signals.mean(dim=1, keepdim=True)
    return ResidualVariance(variance[:, None], level, torch.zeros_like(level))


def noise_sigma(
    residual: ResidualVariance, smooth: Callable[[Tensor], Tensor], *, noise_model: str
) -> Tensor:
    """Turn residual variances into the standard deviation of the noise.

    The magnitude of pure noise varies only 0.43 times as much as the noise itself; a fixed
    point finds the level at which the residuals are as large as they are.

    Parameters
    ----------
    residual : ResidualVariance
        By voxel and shell.
    smooth : callable
        Averages each column (n_voxels, n_shells) over neighbours: single voxels have few
        degrees of freedom, coil noise varies slowly.
    noise_model : str
        ``rician`` or ``gaussian``.

    Returns
    -------
    Tensor of shape (n_voxels,)
        Unit of the signals.
    """
    variance = smooth(residual.variance)
    if noise_model != "gaussian":
        raw = variance
        for _ in range(N_FIXED_POINT):
            sigma = torch.quantile(variance, QUIET_QUANTILE, dim=1, keepdim=True).sqrt()
            sigma = sigma.clamp(min=torch.finfo(sigma.dtype).tiny ** 0.25)
            # Directions differ, and the variance is not linear in the signal: two points
            # stand for their distribution.
            ends = torch.stack(
                [residual.level - residual.spread, residual.level + residual.spread]
            )
            magnitude = Rician(invert_rician_mean(ends, sigma), sigma)
            variance = raw / smooth((magnitude.variance / sigma**2).mean(dim=0))
    return torch.quantile(variance, QUIET_QUANTILE, dim=1).sqrt()


def _design(n: int, acquisition: Acquisition, members: Tensor, is_b0: bool) -> Tensor | None:
    """Give the design of a shell's smooth fit, or None if it leaves no freedom."""
    constant = torch.ones(n, 1, dtype=torch.float64)
    if is_b0 or "bvecs" not in acquisition:
        return constant if n >= 2 else None
    bvecs = acquisition.bvecs[members].double().cpu()
    quadratic = quadratic_basis(bvecs)
    designs = [torch.cat([constant, quadratic], dim=1)]
    x, y, z = bvecs.unbind(-1)
    # Homogeneous quartics contain constant and quadratic on the sphere: degree 4 in one design.
    quartic = torch.stack(
        [x**i * y**j * z ** (4 - i - j) for i in range(5) for j in range(5 - i)], dim=1
    )
    designs.append(quartic)
    sextic = torch.stack(
        [x**i * y**j * z ** (6 - i - j) for i in range(7) for j in range(7 - i)], dim=1
    )
    designs.append(sextic)
    fitting = [
        design
        for design in designs
        if n >= MEASUREMENTS_PER_COEFFICIENT * design.shape[1]
        and torch.linalg.matrix_rank(design) == design.shape[1]
    ]
    return fitting[-1] if fitting else None


def _tensor_design(acquisition: Acquisition) -> Tensor:
    """Give the design of a log-linear fit over all measurements: tensor, kurtosis, T2."""
    b = acquisition.bvals.double().cpu()[:, None] / 1000
    columns = [torch.ones_like(b), -b]
    if "bvecs" in acquisition:
        columns.append(-b * quadratic_basis(acquisition.bvecs.double().cpu()))
    if len(torch.unique(acquisition.bvals)) > 3:
        columns.append(b**2)
    if "echo_times" in acquisition:
        delay = acquisition.echo_times.double().cpu()[:, None]
        if delay.min() < delay.max():
            columns.append((delay.min() - delay) / (delay.max() - delay.min()))
    return torch.cat(columns, dim=1)


def _tensor_residual_variance(signals: Tensor, design: Tensor) -> Tensor:
    """Give the residual variance of a weighted log-linear fit, in units of the signal."""
    floor = signals.amax(dim=1, keepdim=True).clamp(min=1e-12) * 1e-3
    log_signal = torch.log(signals.clamp(min=floor))
    predicted = signals
    for _ in range(3):
        weight = predicted**2
        normal = torch.einsum("vm,mp,mq->vpq", weight, design, design)
        normal = normal + 1e-9 * normal.diagonal(dim1=1, dim2=2).mean(1)[
            :, None, None
        ] * torch.eye(design.shape[1]).to(signals)
        right = (weight * log_signal) @ design
        predicted = torch.exp((torch.linalg.solve(normal, right) @ design.T).clamp(max=50))
    freedom = signals.shape[1] - design.shape[1]
    return ((signals - predicted) ** 2).sum(dim=1) / freedom
