"""Apparent diffusion coefficient and T2 from diffusion data with several echo times."""

from __future__ import annotations

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, Shells
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models.base import Parameter, SignalModel


class T2ADC(SignalModel):
    r"""Mono-exponential diffusion and relaxation.

    .. math:: S(b, TE) / S(0, TE_{min}) = \exp(-b D) \exp(-(TE - TE_{min}) / T_2)

    References
    ----------
    Xu et al. 2024, https://doi.org/10.48550/arXiv.2411.10772
    """

    name = "t2_adc"
    label = "t2adc"
    description = "Apparent diffusion coefficient and T2"
    reference = "https://doi.org/10.48550/arXiv.2411.10772"
    requires = ("bvals", "echo_times")
    parameters = (
        Parameter(
            "t2", "s", 5e-3, 1.0, 0.08, 0.6, "log",
            "Transverse relaxation time", {"suffix": "T2map"}, (0.0, 0.2),
        ),
        Parameter(
            "diffusivity", "mm^2/s", 1e-5, 4e-3, 1.2e-3, 0.6, "log",
            "Apparent diffusion coefficient", {"param": "adc"}, (0.0, 3e-3), (1e-4, 3.05e-3),
        ),
    )  # fmt: skip

    def signal(self, acquisition: Acquisition, t2: Tensor, diffusivity: Tensor) -> Tensor:
        """Compute the signal relative to the shortest echo time."""
        delay = acquisition.echo_times - acquisition.echo_times.min()
        return torch.exp(-acquisition.bvals * diffusivity - delay / t2)

    def check(self, acquisition: Acquisition, shells: Shells | None = None) -> None:
        """Require two echo times and two b-values."""
        super().check(acquisition, shells)
        for column, what in (("echo_times", "echo times"), ("bvals", "b-values")):
            found = len(torch.unique(acquisition[column]))
            if found < 2:
                raise AcquisitionError(
                    f"T2 and ADC need at least two {what}, the run has {found}.",
                    "Use another --signal-model, or auto.",
                )
