"""What a signal model is: named tissue parameters and one equation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, Shells
from bids_gmvae.exceptions import AcquisitionError

#: What the columns of an acquisition are called to users.
REQUIRED = {
    "bvals": "b-values",
    "bvecs": "gradient directions",
    "echo_times": "several echo times",
}

#: Width of the soft walls at a parameter's bounds, in latent units (spreads).
WALL = 0.1
#: Largest logit of a fraction that differs from none or all.
MAX_LOGIT = 7.0


@dataclass(frozen=True)
class Parameter:
    """A tissue parameter: what it means, its bounds, and its image on the real line.

    The latent ``z`` of a parameter is its value on ``scale`` (as it is, its logarithm or its
    logit), centred and divided so that ``center`` and ``spread`` describe human tissue at
    large: a standard normal in ``z`` is the broad population that every model starts from.

    Attributes
    ----------
    name : str
        Python identifier; the argument of `SignalModel.signal` that takes it.
    unit : str
        CMIXF-12, empty if dimensionless; written into the sidecar.
    lower, upper : float
        Physical bounds, in ``unit``; values come arbitrarily close but never beyond.
    center : float
        A typical value in tissue, in ``unit``.
    spread : float
        Standard deviation of the broad population, on ``scale``.
    scale : {"linear", "log", "logit"}
        Where the broad population is normal.
    description : str
        One line for the sidecar and the report.
    bids : mapping
        Entities of the file name: ``{"param": label}`` or ``{"suffix": "T2map"}``.
    figure : tuple of float
        Display range, in ``unit``.
    tissue : tuple of float, optional
        Range in which the mean of a tissue may lie, in ``unit``: no water diffuses faster than
        free water. Strictly within the bounds; the default leaves a hundredth at each end.
    pull : float
        Share by which the mean of a tissue is drawn to ``center`` while the prior is learnt: for
        parameters that vanish from the signal in some tissue, where they would drift.
    """

    name: str
    unit: str
    lower: float
    upper: float
    center: float
    spread: float
    scale: Literal["linear", "log", "logit"]
    description: str
    bids: Mapping[str, str] = field(hash=False)
    figure: tuple[float, float]
    tissue: tuple[float, float] = (math.nan, math.nan)
    pull: float = 0.0

    def __post_init__(self) -> None:
        if math.isnan(self.tissue[0]):
            margin = 0.01 * (self.upper - self.lower)
            object.__setattr__(self, "tissue", (self.lower + margin, self.upper - margin))

    @property
    def latent_range(self) -> tuple[float, float]:
        """Latents from which the data still tell which way to go.

        Beyond a wall the value hardly changes any more, and beyond a logit of `MAX_LOGIT` the
        fraction is none or all.
        """
        low, high = self._walls
        if math.isinf(low):
            ends = (-MAX_LOGIT - self._scaled_center, MAX_LOGIT - self._scaled_center)
            return ends[0] / self.spread, ends[1] / self.spread
        return low, high

    @property
    def bijection(self) -> tuple[float, ...]:
        """What compiled code needs: scale, walls, centre and spread of it, and bounds."""
        scale = ("linear", "log", "logit").index(self.scale)
        ends = (self.lower, self.upper)
        return (scale, *self._walls, self._scaled_center, self.spread, *ends)

    def to_real(self, values: Tensor) -> Tensor:
        """Map values within the bounds (``unit``) to the latent ``z``.

        Values at a bound, where rounding may put them, go to a large but finite latent.
        """
        z = self._standardise(self._scaled(values))
        low, high = self._walls
        if math.isinf(low):
            return z
        w = (high - low) / WALL
        rounding = torch.finfo(z.dtype).eps * w
        u = ((z - low) / WALL).clamp(rounding, w - rounding)
        return low + WALL * (u + torch.log(-torch.expm1(-u)) - torch.log(-torch.expm1(u - w)))

    def to_physical(self, z: Tensor) -> Tensor:
        """Map the latent ``z`` to values within the bounds, in ``unit``."""
        low, high = self._walls
        if not math.isinf(low):
            # Identity inside, with smooth walls: a bijection onto (low, high). It is counted from
            # the nearer wall, where a difference of softplus is exact and its derivative right.
            u, w = (z - low) / WALL, (high - low) / WALL
            first, nothing = u < w / 2, torch.zeros_like(u)
            nearer = torch.where(first, u, w - u)
            inside = torch.logaddexp(nearer, nothing) - torch.logaddexp(nearer - w, nothing)
            z = low + WALL * torch.where(first, inside, w - inside)
        scaled = z * self.spread + self._scaled_center
        if self.scale == "log":
            return torch.exp(scaled)
        if self.scale == "logit":
            return self.lower + (self.upper - self.lower) * torch.sigmoid(scaled)
        return scaled

    def _scaled(self, values: Tensor) -> Tensor:
        if self.scale == "log":
            return torch.log(values)
        if self.scale == "logit":
            share = (values - self.lower) / (self.upper - self.lower)
            return torch.logit(share, eps=torch.finfo(values.dtype).eps)
        return values

    def _standardise(self, scaled: Tensor) -> Tensor:
        return (scaled - self._scaled_center) / self.spread

    @cached_property
    def _scaled_center(self) -> float:
        return float(self._scaled(torch.tensor(self.center, dtype=torch.float64)))

    @cached_property
    def _walls(self) -> tuple[float, float]:
        if self.scale == "logit":
            return -math.inf, math.inf
        bounds = torch.tensor([self.lower, self.upper], dtype=torch.float64)
        low, high = self._standardise(self._scaled(bounds)).tolist()
        return low, high


@dataclass(frozen=True, eq=False)
class Derivatives:
    """A signal and how it changes.

    Attributes
    ----------
    signal : Tensor of shape (n_voxels, n_measurements)
        Relative to no weighting.
    by_value : tuple of Tensor of shape (n_voxels, n_measurements)
        Derivative with respect to each parameter, in its unit.
    by_cosine : Tensor of shape (n_voxels, n_measurements)
        Derivative with respect to the cosine between gradient and orientation.
    """

    signal: Tensor
    by_value: tuple[Tensor, ...]
    by_cosine: Tensor


class SignalModel(ABC):
    """The signal of a voxel, relative to no weighting, as a function of tissue parameters.

    A subclass names its parameters and writes one equation. Everything else (bounds, latents,
    batching, Jacobians, file names) follows from these two.
    """

    name: ClassVar[str]
    #: The ``model-`` label of the file names.
    label: ClassVar[str]
    description: ClassVar[str]
    #: DOI address of the paper that introduced the model.
    reference: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("bvals",)
    parameters: ClassVar[tuple[Parameter, ...]]
    #: Values of free water at body temperature, for a component that anchors it; if it has any.
    free_water: ClassVar[tuple[float, ...] | None] = None
    #: Values near which the likelihood may have a second mode, if it is known to have two.
    rival: ClassVar[tuple[float, ...] | None] = None
    #: Whether the signal depends on a fibre orientation; if not, shells are averaged.
    directional: ClassVar[bool] = False

    @abstractmethod
    def signal(self, acquisition: Acquisition, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the signal relative to no weighting.

        Subclasses take one Tensor of shape (..., 1) per parameter, in the order of
        `parameters`, and, if `directional`, ``orientation`` of shape (..., 3); they return a
        Tensor of shape (..., n_measurements).
        """

    def check(self, acquisition: Acquisition, shells: Shells | None = None) -> None:
        """Raise `AcquisitionError` if the acquisition cannot determine the parameters.

        Parameters
        ----------
        acquisition : Acquisition
            What was measured.
        shells : Shells, optional
            Its shells, as the user defines them; with the default thresholds if not given.
        """
        for column in self.requires:
            if column not in acquisition:
                needed = REQUIRED.get(column, f"the {column.replace('_', ' ')} of its volumes")
                raise AcquisitionError(
                    f"The signal model {self.name} needs {needed}, which the run does not have.",
                    "Use another --signal-model, or auto.",
                )

    def derived(self, values: Tensor) -> Mapping[Parameter, Tensor]:
        """Quantities that follow from the parameters.

        Parameters
        ----------
        values : Tensor of shape (..., n_parameters)
            Physical values.

        Returns
        -------
        mapping of Parameter to Tensor of shape (...)
            Empty by default.
        """
        return {}

    def guess(self, signals: Tensor, counts: Tensor, acquisition: Acquisition) -> Tensor | None:
        """Guess the parameters in closed form, so that the search starts near its end.

        Parameters
        ----------
        signals : Tensor of shape (n_voxels, n_shells)
            Shell means, positive, any unit.
        counts : Tensor of shape (n_shells,)
            Measurements per shell.
        acquisition : Acquisition
            Settings of the shells.

        Returns
        -------
        Tensor of shape (n_voxels, n_parameters) or None
            Values within the bounds. None by default: the search starts at the centre.
        """
        return None

    def derivatives(
        self, values: Tensor, acquisition: Acquisition, orientation: Tensor
    ) -> Derivatives | None:
        """Differentiate the signal analytically.

        Only a gain in speed, for directional models whose derivatives share most of their work;
        without it, they are computed by automatic differentiation.

        Parameters
        ----------
        values : Tensor of shape (n_voxels, n_parameters)
            Physical values.
        acquisition : Acquisition
            Settings of the measurements.
        orientation : Tensor of shape (n_voxels, 3)
            Unit vectors.

        Returns
        -------
        Derivatives or None
            None by default.
        """
        return None

    def compiled(self) -> Any:
        """Give the equation compiled for one voxel on the CPU.

        Only a gain in speed; without it, everything is computed by torch.

        Returns
        -------
        An `bids_gmvae.signal_models.compiled.Equation`, or None
            None by default. Imported within this method: numba is needed only here.
        """
        return None

    def __call__(
        self, values: Tensor, acquisition: Acquisition, orientation: Tensor | None = None
    ) -> Tensor:
        """Compute the signal of physical values (..., n_parameters): (..., n_measurements)."""
        columns = values.split(1, dim=-1)
        if self.directional:
            return self.signal(acquisition, *columns, orientation=orientation)
        return self.signal(acquisition, *columns)

    def unweighted(self, acquisition: Acquisition) -> Tensor:
        """Tell which measurements have signal 1 whatever the tissue: bool (n_measurements,)."""
        unweighted = acquisition.bvals == 0
        if "echo_times" in self.requires:
            unweighted = unweighted & (acquisition.echo_times == acquisition.echo_times.min())
        return unweighted

    def to_physical(self, z: Tensor) -> Tensor:
        """Map latents (..., n_parameters) to physical values within the bounds."""
        columns = zip(self.parameters, z.unbind(-1), strict=True)
        return torch.stack([parameter.to_physical(column) for parameter, column in columns], -1)

    def to_real(self, values: Tensor) -> Tensor:
        """Map physical values (..., n_parameters) to latents."""
        columns = zip(self.parameters, values.unbind(-1), strict=True)
        return torch.stack([parameter.to_real(column) for parameter, column in columns], -1)

    def latent_range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Give the ends of `Parameter.latent_range`, (n_parameters,) each, typed as ``like``."""
        ends = torch.tensor([parameter.latent_range for parameter in self.parameters]).to(like)
        return ends[:, 0], ends[:, 1]
