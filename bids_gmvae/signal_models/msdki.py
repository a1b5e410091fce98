"""Mean signal diffusion kurtosis imaging."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, Shells, find_shells
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models.base import Parameter, SignalModel

#: Diffusivity of water at 37 degrees C, mm^2/s; Mills 1973, https://doi.org/10.1021/j100624a025.
#: No tissue's mean exceeds it: in fluid D and K trade off along a ridge of the likelihood, and a
#: component that climbs it takes voxels of partial volume along.
FREE_WATER = 3.0e-3


class MSDKI(SignalModel):
    r"""Mean signal diffusivity and kurtosis of the powder average.

    .. math:: S(b) / S(0) = \exp(-b D + b^2 D^2 K / 6)

    The expansion would rise above 1 beyond :math:`b = 6 / (D K)`, where it has no meaning;
    there K is limited to :math:`6 / (b_{max} D)`.

    References
    ----------
    Henriques et al. 2019, https://doi.org/10.1002/mrm.27606; the lower bound of K is the one
    of water in spherical pores, Jensen and Helpern 2010, https://doi.org/10.1002/nbm.1518.
    """

    name = label = "msdki"
    description = "Mean signal diffusion kurtosis imaging"
    reference = "https://doi.org/10.1002/mrm.27606"
    parameters = (
        Parameter(
            "diffusivity", "mm^2/s", 1e-5, 4e-3, 1.5e-3, 1e-3, "linear",
            "Mean signal diffusivity", {"param": "msd"}, (0.0, 3e-3), (1e-4, FREE_WATER),
        ),
        Parameter(
            "kurtosis", "", -3 / 7, 3.0, 0.9, 0.7, "linear",
            "Mean signal kurtosis", {"param": "msk"}, (0.0, 2.0), (0.0, 2.9),
        ),
    )  # fmt: skip

    #: Free water is Gaussian.
    free_water = (FREE_WATER, 0.0)

    def signal(self, acquisition: Acquisition, diffusivity: Tensor, kurtosis: Tensor) -> Tensor:
        """Compute the powder-averaged signal."""
        limit = 6 / (acquisition.bvals.max() * diffusivity)
        decay = acquisition.bvals * diffusivity
        return torch.exp(-decay * (1 - decay * torch.minimum(kurtosis, limit) / 6))

    def guess(self, signals: Tensor, counts: Tensor, acquisition: Acquisition) -> Tensor:
        """Fit a parabola to the logarithm, weighted as its noise demands."""
        b = acquisition.bvals / acquisition.bvals.max()
        weights = counts * signals**2
        weights = weights / weights.sum(dim=1, keepdim=True)

        def centred(x: Tensor) -> Tensor:
            return x - (weights * x).sum(dim=1, keepdim=True)

        log_signal, linear, square = centred(torch.log(signals)), centred(b), centred(b**2)
        ll, ls, ss, ly, sy = (
            (weights * x * y).sum(dim=1)
            for x, y in (
                (linear, linear), (linear, square), (square, square),
                (linear, log_signal), (square, log_signal),
            )
        )  # fmt: skip
        determinant = (ll * ss - ls**2).clamp(min=1e-12)
        slope = (ss * ly - ls * sy) / determinant
        bend = (ll * sy - ls * ly) / determinant
        decay = (-slope).clamp(1e-4 * acquisition.bvals.max(), 3.5e-3 * acquisition.bvals.max())
        # Below the limit, from which no slope would lead back.
        kurtosis = torch.minimum((6 * bend / decay**2).clamp(-0.3, 2.5), 0.9 * 6 / decay)
        return torch.stack([decay / acquisition.bvals.max(), kurtosis], dim=-1)

    def compiled(self) -> Any:
        """Give the equation compiled."""
        from bids_gmvae.signal_models.compiled import msdki

        return msdki

    def check(self, acquisition: Acquisition, shells: Shells | None = None) -> None:
        """Require two non-zero shells."""
        super().check(acquisition, shells)
        shells = find_shells(acquisition) if shells is None else shells
        weighted = shells.acquisition.bvals[~shells.is_b0]
        if len(weighted) < 2:
            found = ", ".join(f"{b:.0f}" for b in weighted) or "none"
            raise AcquisitionError(
                f"MS-DKI needs at least two shells with b > 0, the run has: {found} s/mm^2.",
                "Use --signal-model ball_stick_tied, or auto.",
            )
