"""Voxelwise self-supervised network."""

from __future__ import annotations

from dataclasses import dataclass

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.amortised import AmortisedEstimator, AmortisedFit
from bids_gmvae.nn.vae import DirectNetwork, PhysicsNetwork
from bids_gmvae.signal_models.base import SignalModel


@dataclass(frozen=True, eq=False, kw_only=True)
class MLPFit(AmortisedFit):
    """A trained network; its posterior has no spread (NaN), since it estimates none."""

    estimator = "mlp"

    @classmethod
    def build(
        cls, signal_model: SignalModel, settings: ModelSettings, n_measurements: int
    ) -> PhysicsNetwork:
        """Make an untrained network."""
        return DirectNetwork(signal_model, n_measurements)


class MLP(AmortisedEstimator):
    """Three fully connected layers to the parameters, trained on the squared error.

    The network never sees a true parameter: it learns to predict the measured signals, divided
    by the mean b0, through the signal model.

    The published code differs from this one in that it

    - clamps the parameters, which stops all gradients once a batch lies beyond a bound (four of
      five seeds never recover); here the bounds are those of the signal model's bijection, and
      training starts at the centre of all parameters;
    - feeds the signals as they are; here they are standardised first;
    - regresses the angles of a fibre; here the network corrects a linear estimate of the axis;
    - ignores its own seed.

    Neither corrects the Rician bias of the magnitudes, nor for the noise of the mean b0.

    References
    ----------
    Lim et al. 2022, https://arxiv.org/abs/2203.02430; as baseline in Xu et al. 2024,
    https://doi.org/10.48550/arXiv.2411.10772
    """

    name = "mlp"
    description = "Voxelwise self-supervised network"
    draws = False
    fit_class = MLPFit
