"""Apply a voxelwise function to many voxels, a bounded number at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.residuals import usable_voxels
from bids_gmvae.posterior import FAILED, ParameterPosterior, concatenate

LOGGER = logging.getLogger(__name__)

#: Numbers held at once per chunk; bounds memory whatever the number of measurements. Caches are
#: what counts on a CPU, long queues of work on a GPU.
CHUNK_NUMBERS, CHUNK_NUMBERS_GPU = 2_000_000, 50_000_000

#: Takes the measurements of some voxels and which of them are usable, and, where a seed is given,
#: a ``generator``.
Function = Callable[..., ParameterPosterior]


def in_chunks(
    function: Function, run: Measurements, *, device: torch.device | str, seed: int | None = None
) -> ParameterPosterior:
    """Estimate all voxels of a run, chunk by chunk, on a device.

    On the CPU as many chunks at a time as torch has threads, each on one thread: the result is
    the same with any number of them. A GPU whose memory does not suffice gets half as many voxels
    at a time. Voxels that cannot be fitted are given harmless data, so that they cannot disturb
    their chunk, and end as NaN.

    Parameters
    ----------
    function : callable
        See `Function`.
    run : Measurements
        All voxels.
    device : torch.device or str
        Where to compute; results come back to the CPU as float64.
    seed : int, optional
        Of the generators, of which each chunk gets its own.

    Returns
    -------
    ParameterPosterior
        In the order of the rows of ``run``.
    """

    def estimate(voxels: slice) -> ParameterPosterior:
        part = run.select(voxels).to(device, torch.float64)
        usable = usable_voxels(part)
        chance: dict[str, Any] = {}
        if seed is not None:
            chance["generator"] = torch.Generator().manual_seed(seed + voxels.start)
        return to_cpu(blank_failed(function(make_harmless(part, usable), usable, **chance)))

    on_cpu = torch.device(device).type == "cpu"
    numbers = CHUNK_NUMBERS if on_cpu else CHUNK_NUMBERS_GPU
    size = max(256, numbers // max(1, len(run.acquisition)))
    if not on_cpu:
        return concatenate(_piecewise(estimate, slice(0, len(run)), size))
    chunks = [slice(first, min(first + size, len(run))) for first in range(0, len(run), size)]
    return concatenate(_in_threads(lambda chunk: _piecewise(estimate, chunk, size), chunks))


def _piecewise(
    estimate: Callable[[slice], ParameterPosterior], voxels: slice, size: int
) -> list[ParameterPosterior]:
    """Estimate ``size`` voxels after ``size`` voxels, half as many whenever memory is short."""
    parts, first = [], voxels.start
    while first < voxels.stop:
        last = min(first + size, voxels.stop)
        try:
            parts.append(estimate(slice(first, last)))
        except torch.OutOfMemoryError:
            if last - first == 1:
                raise
            size = (last - first + 1) // 2
            LOGGER.warning("Out of memory: going on with %d voxels at a time.", size)
            torch.cuda.empty_cache()
        else:
            first = last
    return parts


def _in_threads(
    function: Callable[[slice], list[ParameterPosterior]], chunks: list[slice]
) -> list[ParameterPosterior]:
    """Join the results of chunks, computed by as many threads as torch has."""
    n_threads, differentiable = torch.get_num_threads(), torch.is_grad_enabled()

    def start() -> None:
        torch.set_num_threads(1)  # of this thread
        torch.set_grad_enabled(differentiable)

    try:
        with ThreadPoolExecutor(n_threads, initializer=start) as pool:
            return [part for parts in pool.map(function, chunks) for part in parts]
    finally:
        torch.set_num_threads(n_threads)  # also the default of threads to come


def make_harmless(run: Measurements, usable: Tensor) -> Measurements:
    """Replace the data of unusable voxels by a constant signal at SNR 10."""
    if usable.all():
        return run
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
