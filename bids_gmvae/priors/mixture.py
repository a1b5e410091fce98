"""The population prior: a learnt Gaussian mixture on the latents, and its closed-form posterior.

Every component has a normal posterior, an evidence and a responsibility, and the prior is learnt
by expectation-maximisation whose statistics add up over voxels, runs and subjects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from bids_gmvae.priors.combine import combine_compiled, combine_tensors, sum_compiled
from bids_gmvae.priors.potentials import MixturePosterior, Potential, Statistics, invert

#: Weak inverse-Wishart prior on component covariances, in spreads of the broad population.
COVARIANCE_SCALE, COVARIANCE_WEIGHT = 0.15, 8.0
#: Dirichlet pseudo-count of each component.
WEIGHT_COUNT = 0.5
#: Spread of an anchor: what is known beforehand is known this well.
ANCHOR_SPREAD = 0.03
#: The broad component starts with this weight and never falls below the floor.
BROAD_START, BROAD_FLOOR = 0.02, 1e-3


@dataclass(frozen=True, eq=False)
class GaussianMixturePrior:
    """A mixture of normals on the latents; the last component is fixed and broad.

    An anchor, if there is one, is a tissue component that is known beforehand: only its weight
    is learnt.

    Attributes
    ----------
    weights : Tensor of shape (n_components + 1,)
        Sum to 1.
    means : Tensor of shape (n_components + 1, n_latent)
    covariances : Tensor of shape (n_components + 1, n_latent, n_latent)
        Full. The last mean and covariance are those of the broad population, N(0, I).
    lower, upper : Tensor of shape (n_latent,)
        Box for the means of tissue components.
    fixed : Tensor of bool of shape (n_components + 1,)
        Components that keep mean and covariance.
    pull : Tensor of shape (n_latent,)
        Share by which means are drawn to the broad population at every update.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    lower: Tensor
    upper: Tensor
    fixed: Tensor
    pull: Tensor

    @classmethod
    def around(
        cls,
        centres: Tensor,
        *,
        spread: float,
        lower: Tensor,
        upper: Tensor,
        anchor: Tensor | None = None,
        pull: Tensor | None = None,
    ) -> GaussianMixturePrior:
        """Put equal round components at some centres.

        Parameters
        ----------
        centres : Tensor of shape (n_components, n_latent)
            Where tissues may be.
        spread : float
            Standard deviation of each.
        lower, upper : Tensor of shape (n_latent,)
            Box for the means.
        anchor : Tensor of shape (n_latent,), optional
            Adds a component that stays there.
        pull : Tensor of shape (n_latent,), optional
            See the attribute; none by default.
        """
        n_latent = centres.shape[1]
        identity = torch.eye(n_latent).to(centres)
        means, spreads = [centres.clamp(lower, upper)], [spread] * len(centres)
        if anchor is not None:
            means.append(anchor[None])
            spreads.append(ANCHOR_SPREAD)
        n_components = len(spreads)
        weights = torch.full((n_components + 1,), (1 - BROAD_START) / n_components).to(centres)
        weights[-1] = BROAD_START
        scales = torch.tensor([*spreads, 1.0]).to(centres)
        return cls(
            weights=weights,
            means=torch.cat([*means, torch.zeros_like(centres[:1])]),
            covariances=scales[:, None, None] ** 2 * identity,
            lower=lower,
            upper=upper,
            fixed=torch.arange(n_components + 1, device=centres.device) >= len(centres),
            pull=torch.zeros_like(lower) if pull is None else pull,
        )

    @property
    def n_components(self) -> int:
        """Tissue components; the broad one comes on top."""
        return len(self.weights) - 1

    @property
    def precisions(self) -> Tensor:
        """Inverse covariances."""
        return invert(self.covariances)[0]

    def posterior(self, potential: Potential) -> MixturePosterior:
        """Combine the prior with potentials, exactly.

        Parameters
        ----------
        potential : Potential
            Of n_voxels.

        Returns
        -------
        MixturePosterior
            One normal per voxel and component.
        """
        components = self._components()
        combine = combine_compiled if _compiles(components[0]) else combine_tensors
        return combine(potential, *components)

    def expect(self, potential: Potential) -> Statistics:
        """Sum what potentials contribute to the next prior."""
        components = self._components()
        if _compiles(components[0]):
            return sum_compiled(potential, *components)
        return Statistics.of(combine_tensors(potential, *components))

    def _components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give precisions, precisions times means, and the rest of the log joint probability."""
        precisions, log_det_covariance = invert(self.covariances)
        pull = torch.einsum("kpq,kq->kp", precisions, self.means)
        offset = torch.log(self.weights) - (log_det_covariance + (pull * self.means).sum(-1)) / 2
        return precisions, pull, offset

    def update(self, statistics: Statistics) -> GaussianMixturePrior:
        """Give the prior of highest posterior density for summed statistics."""
        counts = statistics.counts
        means = statistics.first / counts[:, None].clamp(min=1e-6) * (1 - self.pull)
        keep = self.fixed | (counts < 1e-3)
        means = torch.where(keep[:, None], self.means, means.clamp(self.lower, self.upper))
        outer = means[:, :, None] * means[:, None, :]
        cross = statistics.first[:, :, None] * means[:, None, :]
        scatter = statistics.second - cross - cross.transpose(1, 2) + counts[:, None, None] * outer
        weak = COVARIANCE_WEIGHT * COVARIANCE_SCALE**2 * torch.eye(means.shape[1]).to(means)
        covariances = (scatter + weak) / (counts + COVARIANCE_WEIGHT)[:, None, None]
        weights = counts + WEIGHT_COUNT
        weights = weights / weights.sum()
        broad = weights[-1].clamp(min=BROAD_FLOOR)
        return replace(
            self,
            weights=torch.cat([weights[:-1] / weights[:-1].sum() * (1 - broad), broad[None]]),
            means=means,
            covariances=torch.where(self.fixed[:, None, None], self.covariances, covariances),
        )

    def narrowed(self, spread: float) -> GaussianMixturePrior:
        """Limit the sd of the components that learn, along each of their axes."""
        values, vectors = torch.linalg.eigh(self.covariances)
        limited = (vectors * values.clamp(max=spread**2)[:, None]) @ vectors.transpose(1, 2)
        keep = self.fixed[:, None, None]
        return replace(self, covariances=torch.where(keep, self.covariances, limited))

    def sorted(self) -> GaussianMixturePrior:
        """Order the tissue components by the mean of the first latent."""
        order = torch.argsort(self.means[:-1, 0])
        order = torch.cat([order, order.new_tensor([self.n_components])])
        return replace(
            self,
            weights=self.weights[order],
            means=self.means[order],
            covariances=self.covariances[order],
            fixed=self.fixed[order],
        )

    def to(self, like: Tensor) -> GaussianMixturePrior:
        """Give the same with the type and on the device of ``like``."""
        moved = {part.name: getattr(self, part.name) for part in fields(self)}
        moved = {name: tensor.to(like) for name, tensor in moved.items() if name != "fixed"}
        return GaussianMixturePrior(**moved, fixed=self.fixed.to(like.device))


def learn(
    prior: GaussianMixturePrior,
    potential: Potential,
    *,
    n_steps: int = 100,
    tolerance: float = 1e-4,
) -> tuple[GaussianMixturePrior, list[float]]:
    """Improve a prior by expectation-maximisation on fixed potentials.

    Parameters
    ----------
    prior : GaussianMixturePrior
        Where to start.
    potential : Potential
        The voxels.
    n_steps : int
        Most steps.
    tolerance : float
        Stops when a step changes the evidence by less than this, nats per voxel.

    Returns
    -------
    prior : GaussianMixturePrior
    history : list of float
        Evidence per voxel (nats) before each step; the ELBO, tight because the posterior
        is exact.
    """
    history: list[float] = []
    for _ in range(n_steps):
        statistics = prior.expect(potential)
        history.append(float(statistics.log_evidence) / statistics.n_voxels)
        if len(history) > 1 and abs(history[-1] - history[-2]) < tolerance:
            break
        prior = prior.update(statistics)
    return prior, history


def _compiles(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype == torch.float64


def spread_centres(points: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Pick ``n`` rows of ``points`` (n_points, n_latent) far from each other (k-means++)."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest = torch.full((len(points),), math.inf).to(points)
    while len(chosen) < n:
        nearest = torch.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(dim=1))
        if float(nearest.max()) <= 0:
            chosen.append(int(torch.randint(len(points), (1,), generator=generator)))
            continue
        chosen.append(int(torch.multinomial(nearest.cpu(), 1, generator=generator)))
    return points[chosen]
