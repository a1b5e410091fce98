"""From a mixture on the latents to means, deviations and quantiles in physical units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bids_gmvae.priors import MixturePosterior
from bids_gmvae.signal_models.base import Parameter, SignalModel

#: Nodes of the Gauss-Hermite rule; seven are exact for polynomials up to degree 13.
N_NODES = 7
N_QUANTILE_STEPS = 10
#: Density of the standard normal at its mean.
NORMAL = (2 * torch.pi) ** -0.5
#: Probabilities that bound the central 68 % interval.
CENTRAL = (0.158655, 0.841345)


def moments(mixture: MixturePosterior, signal_model: SignalModel) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation of each parameter.

    Parameters
    ----------
    mixture : MixturePosterior
        Posterior of the latents.
    signal_model : SignalModel
        Gives the bijection to physical values.

    Returns
    -------
    mean, std : Tensor of shape (n_voxels, n_parameters)
        Physical units.
    """
    nodes, weights = hermite_rule(N_NODES, mixture.means)
    spread = _spread(mixture)
    if _is_compiled(mixture.means):
        from bids_gmvae.estimators.compiled.moments import sum_moments, tabulate

        mean, std = torch.empty_like(mixture.means[:, 0]), torch.empty_like(mixture.means[:, 0])
        sum_moments(
            *_arrays(mixture.responsibilities, mixture.means, spread),
            tabulate(signal_model.parameters), *_arrays(nodes, weights, mean, std),
        )  # fmt: skip
        return mean, std
    mean = torch.zeros_like(mixture.means[:, 0])
    square = torch.zeros_like(mean)
    # Values are centred before they are squared: D ~ 1e-3 would lose digits otherwise.
    centre = signal_model.to_physical(mixture.means[:, -1])
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        values = signal_model.to_physical(mixture.means + node * spread) - centre[:, None]
        mean += weight * torch.einsum("vk,vkp->vp", mixture.responsibilities, values)
        square += weight * torch.einsum("vk,vkp->vp", mixture.responsibilities, values**2)
    return centre + mean, (square - mean**2).clamp(min=0).sqrt()


def quantiles(mixture: MixturePosterior, signal_model: SignalModel) -> Tensor:
    """Give the central 68 % interval of each parameter, (n_voxels, n_parameters, 2).

    Bijections carry quantiles over, so the search is in the latents: Newton steps on the
    distribution function, halving the bracket where they leave it.
    """
    search = _search_compiled if _is_compiled(mixture.means) else _search
    latents = torch.stack([search(mixture, probability) for probability in CENTRAL], dim=-2)
    return signal_model.to_physical(latents).transpose(-1, -2)


def _search_compiled(mixture: MixturePosterior, probability: float) -> Tensor:
    from bids_gmvae.estimators.compiled.moments import search_quantiles

    found = torch.empty_like(mixture.means[:, 0])
    rows = _arrays(mixture.responsibilities, mixture.means, _spread(mixture))
    search_quantiles(*rows, probability, found.numpy())
    return found


def _search(mixture: MixturePosterior, probability: float) -> Tensor:
    """Find the latents (n_voxels, n_parameters) that have so much probability below them."""
    weights, spread = mixture.responsibilities[..., None], _spread(mixture)
    mean = (weights * mixture.means).sum(dim=1)
    second = (weights * (mixture.means**2 + spread**2)).sum(dim=1)
    width = (second - mean**2).clamp(min=0).sqrt()
    # By Cantelli's inequality neither end is further from the mean.
    low, high = mean - 2.5 * width, mean + 2.5 * width
    z = mean - width if probability < 0.5 else mean + width
    for _ in range(N_QUANTILE_STEPS):
        standard = (z[:, None] - mixture.means) / spread
        excess = (weights * torch.special.ndtr(standard)).sum(dim=1) - probability
        density = (weights * torch.exp(-(standard**2) / 2) / spread).sum(dim=1) * NORMAL
        low, high = torch.where(excess < 0, z, low), torch.where(excess < 0, high, z)
        step = z - excess / density.clamp(min=1e-12)
        z = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return z


def _spread(mixture: MixturePosterior) -> Tensor:
    return mixture.covariances.diagonal(dim1=-2, dim2=-1).clamp(min=1e-24).sqrt()


def _is_compiled(like: Tensor) -> bool:
    """Tell whether compiled code may take over: on the CPU."""
    return like.device.type == "cpu" and like.dtype == torch.float64


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.contiguous().numpy() for tensor in tensors]


def _to_physical(latents: Tensor, signal_model: SignalModel) -> Tensor:
    """Do what `SignalModel.to_physical` does, faster where compiled code may take over."""
    if not _is_compiled(latents):
        return signal_model.to_physical(latents)
    from bids_gmvae.estimators.compiled.moments import convert, tabulate

    values = torch.empty_like(latents)
    rows = _arrays(latents.flatten(0, -2), values.flatten(0, -2))
    convert(rows[0], tabulate(signal_model.parameters), rows[1])
    return values


def derived_moments(
    mixture: MixturePosterior, signal_model: SignalModel
) -> Mapping[Parameter, tuple[Tensor, Tensor]]:
    """Give mean and standard deviation of each derived quantity, by sigma points.

    Returns
    -------
    mapping of Parameter to (mean, std)
        Tensors of shape (n_voxels,), physical units.
    """
    if not signal_model.derived(signal_model.to_physical(mixture.means[:1, 0])):
        return {}
    n = mixture.means.shape[-1]
    jitter = 1e-12 * torch.eye(n).to(mixture.means)
    root = torch.linalg.cholesky_ex(mixture.covariances + jitter)[0] * n**0.5
    sums: dict[Parameter, tuple[Tensor, Tensor]] = {}
    for axis in range(n):
        for sign in (1.0, -1.0):
            points = _to_physical(mixture.means + sign * root[..., axis], signal_model)
            for parameter, value in signal_model.derived(points).items():
                weight = mixture.responsibilities / (2 * n)
                scaled = value / parameter.center
                first, second = sums.get(parameter, (0.0, 0.0))
                sums[parameter] = (
                    first + (weight * scaled).sum(dim=1),
                    second + (weight * scaled**2).sum(dim=1),
                )
    return {
        parameter: (
            first * parameter.center,
            (second - first**2).clamp(min=0).sqrt() * parameter.center,
        )
        for parameter, (first, second) in sums.items()
    }


def draw(
    mixture: MixturePosterior,
    signal_model: SignalModel,
    n_samples: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw from the posterior of every voxel, independently.

    Parameters
    ----------
    mixture : MixturePosterior
        Posterior of the latents.
    signal_model : SignalModel
        Gives the bijection to physical values.
    n_samples : int
        Draws per voxel.
    generator : torch.Generator
        On the CPU, so that all devices draw alike.

    Returns
    -------
    Tensor of shape (n_voxels, n_parameters, n_samples)
        Physical units, single precision.
    """
    means, rows = mixture.means, torch.arange(len(mixture.means))
    jitter = 1e-12 * torch.eye(means.shape[-1]).to(means)
    root = torch.linalg.cholesky_ex(mixture.covariances + jitter)[0]
    cumulative = mixture.responsibilities.cumsum(dim=1)
    drawn = []
    for _ in range(n_samples):
        chance = torch.rand(len(rows), 1, generator=generator, dtype=torch.float64).to(means)
        chosen = (chance > cumulative[:, :-1]).sum(dim=1)
        noise = torch.randn(
            len(rows), means.shape[-1], 1, generator=generator, dtype=torch.float64
        ).to(means)
        latent = means[rows, chosen] + (root[rows, chosen] @ noise)[..., 0]
        drawn.append(signal_model.to_physical(latent).float())
    return torch.stack(drawn, dim=-1)


def hermite_rule(n_nodes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Give nodes and weights of the Gauss-Hermite rule for the standard normal.

    By Golub and Welsch 1969, https://doi.org/10.1090/S0025-5718-69-99647-1.
    """
    off_diagonal = torch.arange(1, n_nodes, dtype=torch.float64).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(jacobi)
    return nodes.to(like), (vectors[0] ** 2).to(like)
