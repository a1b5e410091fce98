"""Ball-and-stick for single-shell data: both compartments share one diffusivity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, Shells
from bids_gmvae.signal_models.ball_stick import MEAN_DIFFUSIVITY, check_directions
from bids_gmvae.signal_models.base import Parameter, SignalModel


class BallStickTied(SignalModel):
    r"""Ball and stick with one diffusivity, which is all that one shell determines.

    .. math:: S(b, g) / S(0) = f \exp(-b D (g \cdot n)^2) + (1 - f) \exp(-b D)

    References
    ----------
    Behrens et al. 2003, https://doi.org/10.1002/mrm.10609
    """

    name = "ball_stick_tied"
    label = "bstied"
    description = "Ball and stick with one fibre orientation and one diffusivity"
    reference = "https://doi.org/10.1002/mrm.10609"
    requires = ("bvals", "bvecs")
    directional = True
    parameters = (
        Parameter(
            "stick_fraction", "", 0.0, 1.0, 0.354, 1.3, "logit",
            "Volume fraction of the stick", {"param": "vf"}, (0.0, 1.0),
        ),
        Parameter(
            "diffusivity", "mm^2/s", 1e-4, 4e-3, 1.3e-3, 0.5, "log",
            "Diffusivity of stick and ball", {"param": "diffusivity"}, (0.0, 3e-3),
            (2e-4, 3.05e-3),
        ),
    )  # fmt: skip

    def signal(
        self,
        acquisition: Acquisition,
        stick_fraction: Tensor,
        diffusivity: Tensor,
        *,
        orientation: Tensor,
    ) -> Tensor:
        """Compute the signal of a fibre along ``orientation`` (..., 3)."""
        cosine = orientation @ acquisition.bvecs.T
        stick = torch.exp(-acquisition.bvals * diffusivity * cosine**2)
        ball = torch.exp(-acquisition.bvals * diffusivity)
        return stick_fraction * stick + (1 - stick_fraction) * ball

    def compiled(self) -> Any:
        """Give the equation compiled."""
        from bids_gmvae.signal_models.compiled import ball_stick_tied

        return ball_stick_tied

    def derived(self, values: Tensor) -> Mapping[Parameter, Tensor]:
        """Give the mean diffusivity of the two compartments."""
        fraction, diffusivity = values.unbind(-1)
        return {MEAN_DIFFUSIVITY: diffusivity * (1 - 2 * fraction / 3)}

    def check(self, acquisition: Acquisition, shells: Shells | None = None) -> None:
        """Require six directions."""
        super().check(acquisition, shells)
        check_directions(acquisition, needed=6)
