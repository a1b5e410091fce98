"""From signals to features, and from features to tissue parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Normal

if TYPE_CHECKING:
    from bids_gmvae.signal_models.base import SignalModel

#: Hidden units where the measurements are fewer: five b-values would make too small a network.
MIN_WIDTH = 64

#: Initial weights of the head; small, so that training starts at the centre of the parameters.
HEAD_STD = 1e-2

#: Added to the diagonal of a covariance before its Cholesky factor, relative to its trace.
JITTER = 1e-5


class Encoder(nn.Module):
    """Three fully connected layers, as wide as there are measurements.

    Inputs are standardised. Only the start of training changes by that, since the first layer
    is affine, but unstandardised signals are so alike that its gradient is nearly rank one.

    Parameters
    ----------
    n_measurements : int
        Width of the input, and of the layers unless below `MIN_WIDTH`.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, n_measurements: int) -> None:
        super().__init__()
        self.n_features = max(n_measurements, MIN_WIDTH)
        self.register_buffer("center", torch.zeros(n_measurements))
        self.register_buffer("scale", torch.ones(n_measurements))
        self.layers = nn.Sequential(
            nn.Linear(n_measurements, self.n_features),
            nn.SiLU(),
            nn.Linear(self.n_features, self.n_features),
            nn.SiLU(),
            nn.Linear(self.n_features, self.n_features),
            nn.SiLU(),
        )

    def standardise(self, signals: Tensor) -> None:
        """Take centre and scale from signals of shape (n_voxels, n_measurements)."""
        self.center.copy_(signals.mean(dim=0))
        # b0 volumes hardly vary once divided by their mean; they must not be blown up to noise.
        self.scale.fill_((signals - self.center).square().mean().sqrt())

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals (..., n_measurements) to features (..., n_features)."""
        return self.layers((signals - self.center) / self.scale)


class ParameterHead(nn.Module):
    """One fully connected layer to the parameters, through the signal model's own bijection.

    Every output lies within the physical bounds, which are approached smoothly rather than cut
    off, and training starts at the centre of every parameter (``z`` = 0), where gradients are
    large.

    Fibre orientations are a correction of a given axis, ``normalise(axis + t)`` with ``t`` = 0
    at the start: neither a pole nor the seam between antipodes lies where the data are, as with
    angles.

    Parameters
    ----------
    n_inputs : int
        Width of the layer in front.
    signal_model : SignalModel
        Gives the parameters, and whether there is an orientation.
    """

    def __init__(self, n_inputs: int, signal_model: SignalModel) -> None:
        super().__init__()
        self.signal_model = signal_model
        self.n_parameters = len(signal_model.parameters)
        self.n_outputs = self.n_parameters + (3 if signal_model.directional else 0)
        self.linear = nn.Linear(n_inputs, self.n_outputs)
        nn.init.normal_(self.linear.weight, std=HEAD_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (..., n_inputs) to unbounded outputs (..., n_outputs)."""
        return self.linear(features)

    def sample(self, latent: Normal, noise: Tensor) -> Tensor:
        """Draw the outputs of a normal latent.

        The layer is linear, so its outputs are jointly normal: drawing these few instead of
        the wide latent is the same distribution with less noise in the gradient.

        Parameters
        ----------
        latent : Normal of event shape (..., n_voxels, n_inputs)
            Independent normals.
        noise : Tensor of shape (..., n_voxels or 1, n_outputs)
            Standard normal.

        Returns
        -------
        Tensor of shape (..., n_voxels, n_outputs)
            Unbounded outputs.
        """
        weight = self.linear.weight
        products = (weight[:, None] * weight[None]).flatten(0, 1)
        covariance = (latent.variance @ products.T).unflatten(-1, (self.n_outputs, -1))
        size = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
        jitter = (JITTER * size + torch.finfo(size.dtype).tiny) * torch.eye(
            self.n_outputs, dtype=size.dtype, device=size.device
        )
        factor = torch.linalg.cholesky(covariance + jitter)
        return self.linear(latent.mean) + (factor @ noise[..., None]).squeeze(-1)

    def read(self, outputs: Tensor, axes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Turn outputs into parameters and orientation.

        Parameters
        ----------
        outputs : Tensor of shape (..., n_voxels, n_outputs)
            Unbounded.
        axes : Tensor of shape (n_voxels, 3), optional
            Where orientations start from, unit vectors; for directional models.

        Returns
        -------
        values : Tensor of shape (..., n_voxels, n_parameters)
            Physical units.
        orientation : Tensor of shape (..., n_voxels, 3) or None
            Unit vectors.
        """
        values = self.signal_model.to_physical(outputs[..., : self.n_parameters])
        if axes is None:
            return values, None
        return values, nn.functional.normalize(axes + outputs[..., self.n_parameters :], dim=-1)
