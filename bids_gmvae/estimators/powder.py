"""Shell averages for signal models without orientation, and what anisotropy does to them.

The mean of magnitudes over a shell is what such models describe. In anisotropic tissue the
signals differ between directions, and because the Rician mean is convex, averaging them after
the noise floor has bent them biases the average upwards. The excess depends only on how much
the signals spread over directions; it is estimated by a smooth fit to each shell and subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, Shells, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.likelihoods import Rician, invert_rician_mean

#: Fewest directions of a shell to which a quadratic form is fitted.
MIN_DIRECTIONS = 7
N_GAUSS_NEWTON = 6
#: Prior sd of the anisotropic coefficients of the log-signal: wide enough for a coherent fibre
#: at b = 3000 s/mm^2, and the reason why a shell at the noise floor is taken as isotropic.
ANISOTROPY_SCALE = 1.0


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
    means = shells.mean(run.signals)
    if settings.noise_model == "rician" and "bvecs" in run.acquisition:
        columns = []
        for shell in range(len(shells)):
            members = shells.index == shell
            bvecs = run.acquisition.bvecs[members]
            excess = torch.zeros_like(run.sigma)
            if not shells.is_b0[shell] and len(bvecs) >= MIN_DIRECTIONS:
                excess = anisotropy_excess(run.signals[:, members], bvecs, run.sigma)
            columns.append(means[:, shell] - excess)
        means = torch.stack(columns, dim=1)
    return ShellMeans(
        means, run.sigma, shells.counts.to(run.sigma), shells.acquisition.to(run.sigma), shells
    )


def anisotropy_excess(signals: Tensor, bvecs: Tensor, sigma: Tensor) -> Tensor:
    """Estimate by how much anisotropy raises the mean magnitude of a shell.

    A log-signal that is quadratic in the direction is fitted to the magnitudes through their
    Rician mean. The anisotropic part is shrunk by what noise alone would add to it.

    Parameters
    ----------
    signals : Tensor of shape (n_voxels, n_directions)
        Magnitudes.
    bvecs : Tensor of shape (n_directions, 3)
        Unit vectors.
    sigma : Tensor of shape (n_voxels,)
        Noise sd, same unit as ``signals``.

    Returns
    -------
    Tensor of shape (n_voxels,)
        mean_i E(signal_i) - E(mean_i signal_i), same unit as ``signals``.
    """
    n_anisotropic = 5
    basis = torch.cat([torch.ones_like(bvecs[:, :1]), quadratic_basis(bvecs)], dim=1)
    noise = sigma[:, None]
    start = invert_rician_mean(signals.mean(dim=1), sigma).clamp(min=0.2 * sigma)
    coefficients = torch.zeros(len(signals), basis.shape[1]).to(signals)
    coefficients[:, 0] = torch.log(start)
    ridge = torch.full((basis.shape[1],), ANISOTROPY_SCALE**-2).to(signals)
    ridge[0] = 1e-3
    anchor = coefficients.clone()
    for _ in range(N_GAUSS_NEWTON):
        smooth = torch.exp(coefficients @ basis.T)
        rician = Rician(smooth, noise)
        jacobian = rician.mean_slope * smooth
        weight = 1 / rician.variance
        gradient = (jacobian * weight * (signals - rician.mean)) @ basis
        gradient = gradient - ridge * (coefficients - anchor)
        information = torch.einsum("vm,mp,mq->vpq", jacobian**2 * weight, basis, basis)
        step = torch.linalg.solve(information + torch.diag(ridge), gradient)
        longest = step.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
        coefficients = coefficients + step / longest

    anisotropic = coefficients[:, 1:]
    evidence = torch.einsum("vp,vpq,vq->v", anisotropic, information[:, 1:, 1:], anisotropic)
    kept = (1 - n_anisotropic / evidence.clamp(min=1e-12)).clamp(min=0)
    shape = (anisotropic * kept.sqrt()[:, None]) @ basis[:, 1:].T
    smooth = torch.exp(coefficients[:, :1] + shape)
    mean_of_magnitudes = Rician(smooth, noise).mean.mean(dim=1)
    return mean_of_magnitudes - Rician(smooth.mean(dim=1), sigma).mean


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
