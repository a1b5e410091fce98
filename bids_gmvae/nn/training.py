"""Self-supervised training: predict the measured signals through the physics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bids_gmvae.exceptions import GMVAEError
from bids_gmvae.nn.vae import Draw, PhysicsNetwork

if TYPE_CHECKING:
    from bids_gmvae.acquisition import Acquisition
    from bids_gmvae.signal_models.base import SignalModel


@dataclass(frozen=True, eq=False)
class RelativeSignals:
    """Signals of one run relative to its least weighted measurements.

    Attributes
    ----------
    signals : Tensor of shape (n_voxels, n_measurements)
        Divided by their mean over ``reference``.
    axes : Tensor of shape (n_voxels, 3) or None
        Where orientations start from, unit vectors; for directional models.
    acquisition : Acquisition
        Settings of the measurements.
    reference : Tensor of bool of shape (n_measurements,)
        The measurements that were divided by.
    """

    signals: Tensor
    axes: Tensor | None
    acquisition: Acquisition
    reference: Tensor

    def __len__(self) -> int:
        return len(self.signals)

    def select(self, voxels: Tensor | slice) -> RelativeSignals:
        """Keep some voxels."""
        axes = None if self.axes is None else self.axes[voxels]
        return RelativeSignals(self.signals[voxels], axes, self.acquisition, self.reference)

    def predict(self, signal_model: SignalModel, draw: Draw) -> Tensor:
        """Predict the signals (..., n_voxels, n_measurements) of drawn tissue parameters."""
        signals = signal_model(draw.values, self.acquisition, draw.orientation)
        return signals / signals[..., self.reference].mean(dim=-1, keepdim=True)


def train(
    network: PhysicsNetwork,
    runs: Sequence[RelativeSignals],
    *,
    n_epochs: int,
    kl_weight: float,
    generator: torch.Generator,
    progress: Callable[[int, int, float], None],
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> tuple[float, ...]:
    """Minimise the mean squared error plus the weighted divergence from the prior.

    Parameters
    ----------
    network : PhysicsNetwork
        Trained in place.
    runs : sequence of RelativeSignals
        Every batch holds voxels of one run, decoded with that run's acquisition.
    n_epochs : int
        Passes over all voxels.
    kl_weight : float
        Weight of the divergence (nats per voxel) against the squared error per measurement.
    generator : torch.Generator
        Source of all randomness, on the device of the signals.
    progress : callable
        Told (epoch, n_epochs, negative loss per voxel).
    batch_size : int
        Voxels per step of the optimiser.
    learning_rate : float
        Of Adam.

    Returns
    -------
    tuple of float
        Negative loss per voxel, by epoch.

    Raises
    ------
    GMVAEError
        If the loss is no longer finite.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    n_voxels = sum(len(run) for run in runs)
    device = runs[0].signals.device
    history = []
    for epoch in range(n_epochs):
        total = torch.zeros((), device=device)
        for run, voxels in _batches(runs, batch_size, generator):
            batch = run.select(voxels)
            noise = torch.randn(len(batch), network.n_noise, generator=generator, device=device)
            draw = network(batch.signals, noise, batch.axes)
            error = batch.predict(network.signal_model, draw) - batch.signals
            losses = error.square().mean(dim=-1) + kl_weight * draw.kl
            optimiser.zero_grad()
            losses.mean().backward()
            optimiser.step()
            total += losses.detach().sum()
        history.append(-float(total) / n_voxels)
        if not math.isfinite(history[-1]):
            raise GMVAEError(
                f"The training failed: the loss is {-history[-1]} after epoch {epoch + 1}.",
                "Check the image and the mask, or use --estimator gmvae.",
            )
        progress(epoch + 1, n_epochs, history[-1])
    return tuple(history)


def _batches(
    runs: Sequence[RelativeSignals], batch_size: int, generator: torch.Generator
) -> list[tuple[RelativeSignals, Tensor]]:
    """Shuffle voxels within runs, and the batches of all runs."""
    batches = []
    for run in runs:
        order = torch.randperm(len(run), generator=generator, device=run.signals.device)
        batches += [(run, voxels) for voxels in order.split(batch_size)]
    device = runs[0].signals.device
    order = torch.randperm(len(batches), generator=generator, device=device)
    return [batches[position] for position in order.tolist()]
