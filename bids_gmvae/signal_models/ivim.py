"""Intravoxel incoherent motion."""

from __future__ import annotations

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, Shells, find_shells
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models.base import Parameter, SignalModel

#: Perfusion has decayed above this b-value, s/mm^2.
PERFUSION_B = 200.0


class IVIM(SignalModel):
    r"""Perfusion and diffusion as a bi-exponential decay.

    .. math:: S(b) / S(0) = f \exp(-b D^*) + (1 - f) \exp(-b D)

    References
    ----------
    Le Bihan et al. 1988, https://doi.org/10.1148/radiology.168.2.3393671; self-supervised
    fitting: Barbieri et al. 2020, https://doi.org/10.1002/mrm.27910
    """

    name = label = "ivim"
    description = "Intravoxel incoherent motion"
    reference = "https://doi.org/10.1148/radiology.168.2.3393671"
    parameters = (
        Parameter(
            "perfusion_fraction", "", 0.0, 0.7, 0.1, 1.0, "logit",
            "Perfusion fraction", {"param": "perfusionfraction"}, (0.0, 0.4),
        ),
        Parameter(
            "pseudo_diffusivity", "mm^2/s", 4.1e-3, 0.3, 2e-2, 0.7, "log",
            "Pseudo-diffusion coefficient of the perfused blood", {"param": "pseudodiffusivity"},
            (0.0, 0.1), pull=0.05,
        ),
        Parameter(
            "diffusivity", "mm^2/s", 1e-5, 4e-3, 1.2e-3, 0.5, "log",
            "Diffusivity of the tissue", {"param": "diffusivity"}, (0.0, 3e-3), (1e-4, 3.05e-3),
        ),
    )  # fmt: skip

    def signal(
        self,
        acquisition: Acquisition,
        perfusion_fraction: Tensor,
        pseudo_diffusivity: Tensor,
        diffusivity: Tensor,
    ) -> Tensor:
        """Compute the signal of perfused blood and tissue."""
        blood = torch.exp(-acquisition.bvals * pseudo_diffusivity)
        tissue = torch.exp(-acquisition.bvals * diffusivity)
        return perfusion_fraction * blood + (1 - perfusion_fraction) * tissue

    def check(self, acquisition: Acquisition, shells: Shells | None = None) -> None:
        """Require four distinct b-values, two of them low but not zero."""
        super().check(acquisition, shells)
        shells = find_shells(acquisition) if shells is None else shells
        bvals = shells.acquisition.bvals
        n_low = int(((bvals > 1) & (bvals <= PERFUSION_B)).sum())
        if len(bvals) < 4 or n_low < 2:
            raise AcquisitionError(
                f"IVIM needs four b-values, two of them between 0 and {PERFUSION_B:.0f} s/mm^2; "
                f"the run has {len(bvals)}, {n_low} of them low.",
                "Use another --signal-model, or auto.",
            )
