"""Variational autoencoder with a mixture of Gaussians as prior."""

from __future__ import annotations

from dataclasses import dataclass

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.amortised import AmortisedEstimator, AmortisedFit
from bids_gmvae.nn.vae import GaussianMixtureVAE, PhysicsNetwork
from bids_gmvae.signal_models.base import SignalModel


@dataclass(frozen=True, eq=False, kw_only=True)
class VAEGMMFit(AmortisedFit):
    """A trained autoencoder; responsibilities are its categorical probabilities."""

    estimator = "vae_gmm"

    @classmethod
    def build(
        cls, signal_model: SignalModel, settings: ModelSettings, n_measurements: int
    ) -> PhysicsNetwork:
        """Make an untrained autoencoder."""
        return GaussianMixtureVAE(
            signal_model,
            n_measurements,
            settings.latent_size,
            n_components=settings.n_components,
            temperature=settings.temperature,
        )


class VAEGMM(AmortisedEstimator):
    r"""Features, a categorical c by Gumbel-softmax, [features, c] to a latent, then physics.

    .. math::
        \min \; \overline{(x - \hat x)^2} + \alpha \, \left(KL(q(z | x, c) \,\|\, N(m_c, I))
        + KL(q(c | x) \,\|\, 1 / K)\right)

    with signals x divided by the mean b0. Xu et al. use K = 4 and a temperature of 1.

    The differences from the published code are those of `VAEUniG`, and

    - the published code has N(0, I) as the prior of every component, so nothing rewards a
      choice and its categorical stays uniform; here every component has a learnt mean.

    References
    ----------
    Xu et al. 2024, https://doi.org/10.48550/arXiv.2411.10772; Gumbel-softmax: Jang et al.
    2017, https://arxiv.org/abs/1611.01144
    """

    name = "vae_gmm"
    description = "Variational autoencoder with a Gaussian mixture prior"
    fit_class = VAEGMMFit
