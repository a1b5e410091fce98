"""The population prior: a learnt Gaussian mixture on the latents, and its closed-form posterior.

The data of a voxel enter as a Gaussian potential on the latents. Combining it with the mixture
is then exact: every component has a normal posterior, an evidence and a responsibility, and the
prior is learnt by expectation-maximisation whose statistics add up over voxels, runs and
subjects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

#: Weak inverse-Wishart prior on component covariances, in spreads of the broad population.
COVARIANCE_SCALE, COVARIANCE_WEIGHT = 0.15, 8.0
#: Dirichlet pseudo-count of each component.
WEIGHT_COUNT = 0.5
#: Spread of an anchor: what is known beforehand is known this well.
ANCHOR_SPREAD = 0.03
#: The broad component starts with this weight and never falls below the floor.
BROAD_START, BROAD_FLOOR = 0.02, 1e-3


@dataclass(frozen=True, eq=False)
class Potential:
    """Gaussian summary of each voxel's likelihood, with S0 and orientation profiled out.

    One for all components, or one for each: then there is an axis of components behind the
    voxels.

    Attributes
    ----------
    precision : Tensor of shape (n_voxels, [n_components,] n_latent, n_latent)
        Information about the latents.
    shift : Tensor of shape (n_voxels, [n_components,] n_latent)
        Precision times mode.
    constant : Tensor of shape (n_voxels, [n_components])
        Log-likelihood at the origin of the quadratic form, nats.
    """

    precision: Tensor
    shift: Tensor
    constant: Tensor

    def __len__(self) -> int:
        return len(self.shift)

    def by_component(self, n_components: int) -> Potential:
        """Give the same with an axis of components."""
        if self.constant.dim() == 2:
            return self
        return Potential(
            self.precision[:, None].expand(-1, n_components, -1, -1),
            self.shift[:, None].expand(-1, n_components, -1),
            self.constant[:, None].expand(-1, n_components),
        )

    def select(self, voxels: Tensor) -> Potential:
        """Keep some voxels."""
        return Potential(self.precision[voxels], self.shift[voxels], self.constant[voxels])


@dataclass(frozen=True, eq=False)
class MixturePosterior:
    """Posterior of the latents of each voxel: one normal per component.

    Attributes
    ----------
    responsibilities : Tensor of shape (n_voxels, n_components)
        Probability of each component.
    means : Tensor of shape (n_voxels, n_components, n_latent)
    covariances : Tensor of shape (n_voxels, n_components, n_latent, n_latent)
    log_evidence : Tensor of shape (n_voxels,)
        Log-probability of the voxel's data, nats.
    """

    responsibilities: Tensor
    means: Tensor
    covariances: Tensor
    log_evidence: Tensor


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a set of voxels contributes to the next prior; contributions add up.

    Attributes
    ----------
    counts : Tensor of shape (n_components,)
    first : Tensor of shape (n_components, n_latent)
        Sum of posterior means, weighted by responsibility.
    second : Tensor of shape (n_components, n_latent, n_latent)
        Sum of posterior second moments, weighted likewise.
    log_evidence : Tensor, scalar
        Sum over voxels.
    n_voxels : int
    """

    counts: Tensor
    first: Tensor
    second: Tensor
    log_evidence: Tensor
    n_voxels: int

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.counts + other.counts,
            self.first + other.first,
            self.second + other.second,
            self.log_evidence + other.log_evidence,
            self.n_voxels + other.n_voxels,
        )

    @classmethod
    def of(cls, posterior: MixturePosterior) -> Statistics:
        """Sum over the voxels of a posterior."""
        weight = posterior.responsibilities
        spread = posterior.covariances + (
            posterior.means[..., :, None] * posterior.means[..., None, :]
        )
        return cls(
            counts=weight.sum(dim=0),
            first=torch.einsum("vk,vkp->kp", weight, posterior.means),
            second=torch.einsum("vk,vkpq->kpq", weight, spread),
            log_evidence=posterior.log_evidence.sum(),
            n_voxels=len(weight),
        )


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
        precisions, log_det_covariance = invert(self.covariances)
        pull = torch.einsum("kpq,kq->kp", precisions, self.means)
        offset = torch.log(self.weights) - (log_det_covariance + (pull * self.means).sum(-1)) / 2
        compiled = pull.device.type == "cpu" and pull.dtype == torch.float64
        combine = combine_compiled if compiled else combine_tensors
        return combine(potential, precisions, pull, offset)

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


def combine_tensors(
    potential: Potential, precisions: Tensor, pull: Tensor, offset: Tensor
) -> MixturePosterior:
    """Combine potentials with normal components, on any device.

    Parameters
    ----------
    potential : Potential
        Of n_voxels.
    precisions : Tensor of shape (n_components, n_latent, n_latent)
        Inverse covariances of the components.
    pull : Tensor of shape (n_components, n_latent)
        Precision times mean of each.
    offset : Tensor of shape (n_components,)
        What of the log joint probability depends on the component alone.
    """
    potential = potential.by_component(len(offset))
    covariances, log_det_precision = invert(potential.precision + precisions)
    shift = potential.shift + pull
    means = torch.einsum("vkpq,vkq->vkp", covariances, shift)
    log_joint = (
        potential.constant + offset - log_det_precision / 2 + (shift * means).sum(dim=-1) / 2
    )
    log_evidence = torch.logsumexp(log_joint, dim=1)
    responsibilities = torch.exp(log_joint - log_evidence[:, None])
    return MixturePosterior(responsibilities, means, covariances, log_evidence)


def combine_compiled(
    potential: Potential, precisions: Tensor, pull: Tensor, offset: Tensor
) -> MixturePosterior:
    """Do the same as `combine_tensors`, faster, on the CPU in double precision."""
    from bids_gmvae.priors_compiled import combine

    if potential.constant.dim() == 1:
        potential = potential.by_component(1)
    n_voxels, (n_components, n_latent) = len(potential), pull.shape
    given = (potential.precision, potential.shift, potential.constant, precisions, pull, offset)
    posterior = MixturePosterior(
        responsibilities=pull.new_empty(n_voxels, n_components),
        means=pull.new_empty(n_voxels, n_components, n_latent),
        covariances=pull.new_empty(n_voxels, n_components, n_latent, n_latent),
        log_evidence=pull.new_empty(n_voxels),
    )
    combine(
        *(tensor.contiguous().numpy() for tensor in given),
        *(getattr(posterior, part.name).numpy() for part in fields(posterior)),
    )
    return posterior


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
        statistics = Statistics.of(prior.posterior(potential))
        history.append(float(statistics.log_evidence) / statistics.n_voxels)
        if len(history) > 1 and abs(history[-1] - history[-2]) < tolerance:
            break
        prior = prior.update(statistics)
    return prior, history


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


def invert(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Invert many small positive definite matrices at once.

    Parameters
    ----------
    matrices : Tensor of shape (..., n, n)
        Symmetric positive definite; n is a handful.

    Returns
    -------
    inverse : Tensor of shape (..., n, n)
    log_determinant : Tensor of shape (...)

    Notes
    -----
    Gauss-Jordan sweeps, element by element over the batch: for matrices of this size some
    fifty times faster than the batched LAPACK call.
    """
    swept = matrices
    log_determinant = torch.zeros_like(matrices[..., 0, 0])
    n = matrices.shape[-1]
    for k in range(n):
        pivot = swept[..., k, k]
        log_determinant = log_determinant + torch.log(pivot)
        row = swept[..., k, :] / pivot[..., None]
        column = swept[..., :, k]
        swept = swept - column[..., :, None] * row[..., None, :]
        swept[..., k, :] = row
        swept[..., :, k] = row
        swept[..., k, k] = -1 / pivot
    return -swept, log_determinant
