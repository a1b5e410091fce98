"""Potentials and normal components combined in closed form: by tensors, or compiled."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from bids_gmvae.priors.potentials import MixturePosterior, Potential, Statistics, invert


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
    from bids_gmvae.priors.compiled import combine  # compiles

    given = _arrays(potential, precisions, pull, offset)
    posterior = _room(pull, len(potential))
    written = (getattr(posterior, part.name).numpy() for part in fields(posterior))
    combine(*given, *written, _scratch(pull))
    return posterior


def sum_compiled(
    potential: Potential, precisions: Tensor, pull: Tensor, offset: Tensor
) -> Statistics:
    """Do the same as `combine_compiled` and `Statistics.of`, without room for every voxel."""
    from bids_gmvae.priors.compiled import add_up  # compiles

    given = _arrays(potential, precisions, pull, offset)
    voxel = _room(pull, 1)
    room = (item[0].numpy() for item in (voxel.responsibilities, voxel.means, voxel.covariances))
    counts, first, second = (torch.zeros_like(item) for item in (offset, pull, precisions))
    written = (item.numpy() for item in (counts, first, second))
    log_evidence = add_up(*given, *room, _scratch(pull), *written)
    return Statistics(counts, first, second, pull.new_tensor(log_evidence), len(potential))


def _arrays(potential: Potential, *components: Tensor) -> list[Any]:
    """Give the arrays that compiled functions take, potentials with an axis of components."""
    if potential.constant.dim() == 1:
        potential = potential.by_component(1)
    given = (potential.precision, potential.shift, potential.constant, *components)
    return [tensor.contiguous().numpy() for tensor in given]


def _room(pull: Tensor, n_voxels: int) -> MixturePosterior:
    n_components, n_latent = pull.shape
    return MixturePosterior(
        responsibilities=pull.new_empty(n_voxels, n_components),
        means=pull.new_empty(n_voxels, n_components, n_latent),
        covariances=pull.new_empty(n_voxels, n_components, n_latent, n_latent),
        log_evidence=pull.new_empty(n_voxels),
    )


def _scratch(pull: Tensor) -> Any:
    return pull.new_empty(2 * pull.shape[1] + 1, pull.shape[1]).numpy()
