"""Apply a voxelwise function to many voxels, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.residuals import usable_voxels
from bids_gmvae.posterior import FAILED, ParameterPosterior, concatenate

#: Numbers held at once per chunk; bounds memory whatever the number of measurements.
CHUNK_NUMBERS = 1_000_000

Function = Callable[[Measurements, Tensor], ParameterPosterior]


def in_chunks(
    function: Function, run: Measurements, *, device: torch.device | str
) -> ParameterPosterior:
    """Estimate all voxels of a run, chunk by chunk, on a device.

    Voxels that cannot be fitted are given harmless data, so that they cannot disturb their
    chunk, and end as NaN.

    Parameters
    ----------
    function : callable
        Takes the measurements of some voxels and which of them are usable.
    run : Measurements
        All voxels.
    device : torch.device or str
        Where to compute; results come back to the CPU as float64.

    Returns
    -------
    ParameterPosterior
        In the order of the rows of ``run``.
    """
    size = max(256, CHUNK_NUMBERS // max(1, len(run.acquisition)))
    parts = []
    for first in range(0, len(run), size):
        part = run.select(slice(first, first + size)).to(device, torch.float64)
        usable = usable_voxels(part)
        part = make_harmless(part, usable)
        parts.append(to_cpu(blank_failed(function(part, usable))))
    return concatenate(parts)


def make_harmless(run: Measurements, usable: Tensor) -> Measurements:
    """Replace the data of unusable voxels by a constant signal at SNR 10."""
    signals = torch.where(usable[:, None], run.signals, torch.full_like(run.signals, 10.0))
    sigma = torch.where(usable, run.sigma, torch.ones_like(run.sigma))
    return Measurements(signals, sigma, run.acquisition)


def blank_failed(posterior: ParameterPosterior) -> ParameterPosterior:
    """Set everything but the status of failed voxels to NaN."""
    failed = torch.isin(posterior.status, torch.tensor(FAILED).to(posterior.status))
    blank = {
        name: tensor
        if name == "status"
        else torch.where(
            failed.reshape(-1, *[1] * (tensor.dim() - 1)),
            torch.full_like(tensor, torch.nan),
            tensor,
        )
        for name, tensor in posterior.tensors().items()
    }
    return ParameterPosterior.from_tensors(posterior.signal_model, blank)


def to_cpu(posterior: ParameterPosterior) -> ParameterPosterior:
    """Bring a posterior to the CPU."""
    tensors = {name: tensor.cpu() for name, tensor in posterior.tensors().items()}
    return ParameterPosterior.from_tensors(posterior.signal_model, tensors)
