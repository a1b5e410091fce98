"""Networks whose decoder is a signal model: deterministic, variational, Gaussian mixture."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from bids_gmvae.nn.encoder import Encoder, ParameterHead

if TYPE_CHECKING:
    from bids_gmvae.signal_models.base import SignalModel

#: Initial spread of the component means. Far apart, one of them would win all voxels before
#: the latent tells tissues apart; equal, none would ever be chosen.
COMPONENT_STD = 0.1


@dataclass(frozen=True, eq=False)
class Draw:
    """What a network says for given noise.

    Attributes
    ----------
    values : Tensor of shape (..., n_voxels, n_parameters)
        Tissue parameters, physical units.
    orientation : Tensor of shape (..., n_voxels, 3) or None
        Unit vectors, for directional models.
    latent, prior : Normal of shape (..., n_voxels, latent_size) or None
        Recognised latent, and its prior given the component.
    log_responsibilities : Tensor of shape (n_voxels, n_components) or None
        Log probability of each component, for mixtures.
    """

    values: Tensor
    orientation: Tensor | None
    latent: Normal | None = None
    prior: Normal | None = None
    log_responsibilities: Tensor | None = None

    @property
    def kl(self) -> Tensor:
        """Divergence of latent and component from their priors, nats, (..., n_voxels)."""
        kl = self.values.new_zeros(self.values.shape[:-1])
        if self.latent is not None and self.prior is not None:
            kl = kl_divergence(self.latent, self.prior).sum(dim=-1)
        if self.log_responsibilities is not None:
            uniform = -math.log(self.log_responsibilities.shape[-1])
            ratio = self.log_responsibilities - uniform
            kl = kl + (self.log_responsibilities.exp() * ratio).sum(dim=-1)
        return kl


class PhysicsNetwork(nn.Module, ABC):
    """A network from signals to tissue parameters, possibly by way of a random latent.

    All randomness comes in as standard normal noise, so that the caller decides on its seed
    and can use the same draws for every voxel.

    Parameters
    ----------
    signal_model : SignalModel
        The physics.
    n_measurements : int
        Width of the input.
    """

    #: Columns of noise per draw.
    n_noise: int = 0

    def __init__(self, signal_model: SignalModel, n_measurements: int) -> None:
        super().__init__()
        self.signal_model = signal_model
        self.encoder = Encoder(n_measurements)

    @abstractmethod
    def forward(self, signals: Tensor, noise: Tensor, axes: Tensor | None = None) -> Draw:
        """Draw tissue parameters.

        Parameters
        ----------
        signals : Tensor of shape (n_voxels, n_measurements)
            Relative to the unweighted signal.
        noise : Tensor of shape (n_voxels, n_noise) or (n_draws, 1, n_noise)
            Standard normal.
        axes : Tensor of shape (n_voxels, 3), optional
            Where orientations start from; for directional models.
        """


class DirectNetwork(PhysicsNetwork):
    """Encoder and head without a latent."""

    def __init__(self, signal_model: SignalModel, n_measurements: int) -> None:
        super().__init__(signal_model, n_measurements)
        self.head = ParameterHead(self.encoder.n_features, signal_model)

    def forward(self, signals: Tensor, noise: Tensor, axes: Tensor | None = None) -> Draw:
        """Estimate tissue parameters; the noise has no columns, but gives the shape."""
        outputs = self.head(self.encoder(signals)) + noise.sum(dim=-1, keepdim=True)
        values, orientation = self.head.read(outputs, axes)
        return Draw(values, orientation)


class GaussianVAE(PhysicsNetwork):
    """Variational autoencoder with a standard normal prior.

    Parameters
    ----------
    signal_model : SignalModel
        The physics.
    n_measurements : int
        Width of the input.
    latent_size : int
        Width of the latent.
    """

    def __init__(self, signal_model: SignalModel, n_measurements: int, latent_size: int) -> None:
        super().__init__(signal_model, n_measurements)
        self.moments = nn.Linear(self.encoder.n_features, 2 * latent_size)
        self.head = ParameterHead(latent_size, signal_model)
        self.n_noise = self.head.n_outputs

    def forward(self, signals: Tensor, noise: Tensor, axes: Tensor | None = None) -> Draw:
        """Draw a latent and decode it."""
        latent = as_normal(self.moments(self.encoder(signals)))
        values, orientation = self.head.read(self.head.sample(latent, noise), axes)
        prior = Normal(torch.zeros_like(latent.mean), 1.0, validate_args=False)
        return Draw(values, orientation, latent, prior)


class GaussianMixtureVAE(PhysicsNetwork):
    """Variational autoencoder with a mixture of Gaussians as prior.

    A categorical ``c`` is drawn by Gumbel-softmax from the features; features and ``c``
    together give mean and variance of the latent, whose prior given ``c`` is a unit Gaussian
    around the learnt mean of the component. The prior of ``c`` is uniform.

    Parameters
    ----------
    signal_model : SignalModel
        The physics.
    n_measurements : int
        Width of the input.
    latent_size : int
        Width of the latent.
    n_components : int
        Components of the mixture.
    temperature : float
        Of the Gumbel-softmax: 0 is a hard choice, large is a blur.
    """

    def __init__(
        self,
        signal_model: SignalModel,
        n_measurements: int,
        latent_size: int,
        *,
        n_components: int,
        temperature: float,
    ) -> None:
        super().__init__(signal_model, n_measurements)
        self.temperature = temperature
        self.logits = nn.Linear(self.encoder.n_features, n_components)
        # Two layers whose outputs add up are one layer on [features, c] that needs no copy of
        # the features for every draw of c.
        self.moments = nn.Linear(self.encoder.n_features, 2 * latent_size)
        self.component_moments = nn.Linear(n_components, 2 * latent_size, bias=False)
        means = COMPONENT_STD * torch.randn(n_components, latent_size)
        self.component_means = nn.Parameter(means)
        self.head = ParameterHead(latent_size, signal_model)
        self.n_noise = n_components + self.head.n_outputs

    def forward(self, signals: Tensor, noise: Tensor, axes: Tensor | None = None) -> Draw:
        """Draw a component and a latent, and decode the latent."""
        features = self.encoder(signals)
        log_probability = self.logits(features).log_softmax(dim=-1)
        n_components = log_probability.shape[-1]
        categorical, normal = noise[..., :n_components], noise[..., n_components:]
        gumbel = -torch.log(-torch.special.log_ndtr(categorical))
        component = ((log_probability + gumbel) / self.temperature).softmax(dim=-1)

        latent = as_normal(self.moments(features) + self.component_moments(component))
        values, orientation = self.head.read(self.head.sample(latent, normal), axes)

        prior = Normal(component @ self.component_means, 1.0, validate_args=False)
        return Draw(values, orientation, latent, prior, log_probability)


def as_normal(moments: Tensor) -> Normal:
    """Read (..., 2 n) outputs of a layer as means and log variances of n independent normals."""
    mean, log_variance = moments.chunk(2, dim=-1)
    return Normal(mean, torch.exp(0.5 * log_variance), validate_args=False)
