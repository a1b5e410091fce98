"""How noisy each voxel is, from the residuals of a smooth fit to its own measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.powder import quadratic_basis
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.likelihoods import Rician, invert_rician_mean

#: Measurements per coefficient needed before a shell gets a higher-order fit.
MEASUREMENTS_PER_COEFFICIENT = 2.0
N_FIXED_POINT = 12


def estimate_variance(
    signals: Tensor, acquisition: Acquisition, settings: ModelSettings
) -> Tensor:
    """Estimate the noise variance of each voxel.

    Every shell with directions gets a smooth fit over the sphere, every other shell its mean;
    the residuals, with their degrees of freedom, give the variance of the magnitude, and a
    fixed point turns it into the variance of the noise (the magnitude of pure noise varies
    only 0.43 times as much).

    Parameters
    ----------
    signals : Tensor of shape (n_voxels, n_measurements)
        Magnitudes.
    acquisition : Acquisition
        Settings of the measurements.
    settings : ModelSettings
        Shell tolerance, b0 threshold and noise model.

    Returns
    -------
    Tensor of shape (n_voxels,)
        Noise variance, squared unit of ``signals``. To be averaged over neighbours: a single
        voxel has few degrees of freedom.

    Raises
    ------
    AcquisitionError
        If no shell holds more measurements than its fit has coefficients.
    """
    shells = find_shells(
        acquisition, b0_threshold=settings.b0_threshold, shell_tolerance=settings.shell_tolerance
    )
    levels, squares, freedoms = [], [], []
    for shell in range(len(shells)):
        members = shells.index == shell
        values = signals[:, members]
        design = _design(values.shape[1], acquisition, members, bool(shells.is_b0[shell]))
        if design is None:
            continue
        orthogonal, _ = torch.linalg.qr(design.to(signals))
        residual = values - (values @ orthogonal) @ orthogonal.T
        levels.append(values.mean(dim=1))
        squares.append((residual**2).sum(dim=1))
        freedoms.append(values.shape[1] - design.shape[1])
    if not freedoms:
        design = _tensor_design(acquisition).to(signals)
        if len(acquisition) - design.shape[1] < 3:
            raise AcquisitionError(
                "The noise level cannot be estimated: no b-value has enough repeats or "
                f"directions ({len(acquisition)} volumes).",
                "Give the noise standard deviation with --noise-map PATH.",
            )
        return _tensor_residual_variance(signals, design)

    level = torch.stack(levels, dim=1)
    square = torch.stack(squares, dim=1)
    freedom = torch.tensor(freedoms).to(signals)
    variance = square.sum(dim=1) / freedom.sum()
    if settings.noise_model == "gaussian":
        return variance
    for _ in range(N_FIXED_POINT):
        sigma = variance.sqrt().clamp(min=1e-6 * level.amax(dim=1).clamp(min=1e-12))[:, None]
        shrink = Rician(invert_rician_mean(level, sigma), sigma).variance / sigma**2
        variance = square.sum(dim=1) / (freedom * shrink).sum(dim=1)
    return variance


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
    """Give the design of a log-linear tensor fit over all b-values."""
    b = acquisition.bvals.double().cpu()[:, None] / 1000
    columns = [torch.ones_like(b), -b]
    if "bvecs" in acquisition:
        columns.append(-b * quadratic_basis(acquisition.bvecs.double().cpu()))
    if len(torch.unique(acquisition.bvals)) > 3:
        columns.append(b**2)
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
