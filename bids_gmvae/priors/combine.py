"""Potentials and normal components combined in closed form: by tensors, or compiled."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from bids_gmvae.priors.potentials import MixturePosterior, Potential, invert


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
        pull.new_empty(2 * n_latent + 1, n_latent).numpy(),
    )
    return posterior
