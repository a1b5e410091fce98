"""The population prior: a learnt Gaussian mixture, and its closed-form posterior.

The data of a voxel enter as a Gaussian potential on the latents; combining it with the mixture is
then exact.
"""

from __future__ import annotations

from bids_gmvae.priors.combine import combine_compiled, combine_tensors, sum_compiled
from bids_gmvae.priors.mixture import GaussianMixturePrior, learn, spread_centres
from bids_gmvae.priors.potentials import MixturePosterior, Potential, Statistics, invert

__all__ = [
    "GaussianMixturePrior",
    "MixturePosterior",
    "Potential",
    "Statistics",
    "combine_compiled",
    "combine_tensors",
    "invert",
    "learn",
    "spread_centres",
    "sum_compiled",
]
