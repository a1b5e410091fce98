"""Variational autoencoder with one Gaussian as prior."""

from __future__ import annotations

from dataclasses import dataclass

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.amortised import AmortisedEstimator, AmortisedFit
from bids_gmvae.nn.vae import GaussianVAE, PhysicsNetwork
from bids_gmvae.signal_models.base import SignalModel


@dataclass(frozen=True, eq=False, kw_only=True)
class VAEUniGFit(AmortisedFit):
    """A trained autoencoder."""

    estimator = "vae_unig"

    @classmethod
    def build(
        cls, signal_model: SignalModel, settings: ModelSettings, n_measurements: int
    ) -> PhysicsNetwork:
        """Make an untrained autoencoder."""
        return GaussianVAE(signal_model, n_measurements, settings.latent_size)


class VAEUniG(AmortisedEstimator):
    r"""Encoder, latent with standard normal prior, one layer to the parameters, physics.

    .. math:: \min \; \overline{(x - \hat x)^2} + \alpha \, KL(q(z | x) \,\|\, N(0, I))

    with signals x divided by the mean b0. The posterior is the spread over draws of z; since
    :math:`\alpha` is not tied to the noise, it is the spread that the network claims, not a
    calibrated one.

    The differences from the published code are those of `MLP`, and

    - the published code scales the noise of the latent by 0.015 without saying so in the
      divergence; here both belong to the same distribution;
    - the layer behind the latent is linear, so its outputs are drawn instead of the latent:
      the same distribution with less noise in the gradient.

    References
    ----------
    Xu et al. 2024, https://doi.org/10.48550/arXiv.2411.10772
    """

    name = "vae_unig"
    description = "Variational autoencoder with a Gaussian prior"
    fit_class = VAEUniGFit
