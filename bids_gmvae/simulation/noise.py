"""From tissue parameters to noisy magnitudes."""

from __future__ import annotations

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.signal_models.base import SignalModel


def simulate_signals(
    signal_model: SignalModel,
    acquisition: Acquisition,
    values: Tensor,
    *,
    orientation: Tensor | None = None,
    anisotropy: Tensor | float = 0.0,
    s0: Tensor | float = 1.0,
    sigma: Tensor | float,
    generator: torch.Generator,
) -> Tensor:
    """Simulate the magnitudes that a scanner would give.

    Parameters
    ----------
    signal_model : SignalModel
        The physics.
    acquisition : Acquisition
        Settings of the measurements.
    values : Tensor of shape (n_voxels, n_parameters)
        Tissue parameters, in their units.
    orientation : Tensor of shape (n_voxels, 3), optional
        Fibre orientations, unit vectors in the frame of the gradient directions. Required by
        directional models; others use it only together with ``anisotropy``.
    anisotropy : float or Tensor of shape (n_voxels,)
        Directional modulation of a model without orientation, mm^2/s; see `modulate`.
    s0 : float or Tensor of shape (n_voxels,)
        Signal without weighting.
    sigma : float or Tensor of shape (n_voxels,)
        Standard deviation of the noise in the real and the imaginary channel.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor of shape (n_voxels, n_measurements)
        Rician magnitudes, dtype of ``values``.
    """
    acquisition = acquisition.to(values.dtype)
    signals = signal_model(values, acquisition, orientation)
    if orientation is not None and not signal_model.directional:
        signals = modulate(signals, acquisition, orientation, anisotropy)
    s0 = torch.as_tensor(s0, dtype=values.dtype)
    return add_rician_noise(s0.reshape(-1, 1) * signals, sigma, generator)


def modulate(
    signals: Tensor, acquisition: Acquisition, orientation: Tensor, anisotropy: Tensor | float
) -> Tensor:
    r"""Make signals depend on direction without changing the mean of any shell.

    Every measurement is multiplied by :math:`w = \exp(-b \Delta D (g \cdot n)^2)` and each
    shell is then scaled back to its mean, so that a model of the powder average stays exactly
    true while single volumes differ between directions as they do in tissue.

    Parameters
    ----------
    signals : Tensor of shape (n_voxels, n_measurements)
        Signals that do not depend on direction.
    acquisition : Acquisition
        Needs ``bvals`` and ``bvecs``.
    orientation : Tensor of shape (n_voxels, 3)
        Fibre orientations, unit vectors.
    anisotropy : float or Tensor of shape (n_voxels,)
        Axial minus radial diffusivity, mm^2/s.

    Returns
    -------
    Tensor of shape (n_voxels, n_measurements)
        Modulated signals.
    """
    anisotropy = torch.as_tensor(anisotropy, dtype=signals.dtype).reshape(-1, 1)
    cosine = orientation.to(signals) @ acquisition.bvecs.to(signals).T
    weighted = signals * torch.exp(-acquisition.bvals.to(signals) * anisotropy * cosine**2)
    shells = find_shells(acquisition)
    scale = shells.mean(signals) / shells.mean(weighted)
    return weighted * scale[:, shells.index]


def add_rician_noise(signals: Tensor, sigma: Tensor | float, generator: torch.Generator) -> Tensor:
    """Add complex Gaussian noise and take the magnitude.

    Parameters
    ----------
    signals : Tensor of shape (n_voxels, n_measurements)
        Noiseless signals.
    sigma : float or Tensor of shape (n_voxels,)
        Standard deviation of the noise in each channel.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor of shape (n_voxels, n_measurements)
        Magnitudes, dtype of ``signals``.
    """
    sigma = torch.as_tensor(sigma, dtype=signals.dtype).reshape(-1, 1)
    real = torch.randn(signals.shape, generator=generator, dtype=signals.dtype)
    imaginary = torch.randn(signals.shape, generator=generator, dtype=signals.dtype)
    return torch.hypot(signals + sigma * real, sigma * imaginary)
