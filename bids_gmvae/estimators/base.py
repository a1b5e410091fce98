"""What an estimator is: it is fitted once, and then says what it knows about each voxel."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition, Shells, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.saved_fit import SavedFit
from bids_gmvae.estimators.saved_prior import latents_of
from bids_gmvae.exceptions import InputError
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.signal_models.base import SignalModel

if TYPE_CHECKING:
    from bids_gmvae.estimators.problem import Problem

#: Called during a fit with (step, n_steps, objective); see `Estimator.objective`.
Progress = Callable[[int, int, float], None]


def no_progress(step: int, n_steps: int, elbo: float) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """What an estimator sees of one run.

    Attributes
    ----------
    signals : Tensor of shape (n_voxels, n_measurements)
        Magnitudes, in units of the image.
    sigma : Tensor of shape (n_voxels,)
        Standard deviation of the noise before the magnitude is taken, same unit.
    acquisition : Acquisition
        Settings of the measurements.
    """

    signals: Tensor
    sigma: Tensor
    acquisition: Acquisition

    def __len__(self) -> int:
        return len(self.signals)

    def select(self, voxels: Tensor | slice) -> Measurements:
        """Keep some voxels."""
        return Measurements(self.signals[voxels], self.sigma[voxels], self.acquisition)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Measurements:
        """Move and cast everything."""
        return Measurements(
            self.signals.to(device, dtype),
            self.sigma.to(device, dtype),
            self.acquisition.to(device, dtype),
        )


@dataclass(frozen=True, eq=False)
class Fit(ABC):
    """A fitted estimator: settings, learnt weights, and how the training went.

    Attributes
    ----------
    signal_model : SignalModel
        The model it was fitted for.
    settings : ModelSettings
        The settings it was fitted with.
    history : tuple of float
        What the training raised, by step: the ELBO per voxel (nats), or what ``summary`` calls
        its objective. Empty if nothing was trained.
    summary : mapping
        Plain values for sidecars and report (number of active components, device, ...).
    training : tuple of Problem
        The voxels that a prior was or could have been learnt from, by run; empty if there is
        none. No part of the saved fit.
    acquisitions : tuple of Acquisition
        Those of the runs it was learnt from, if anything was.
    """

    #: Name of the estimator that makes this fit.
    estimator: ClassVar[str]

    signal_model: SignalModel
    settings: ModelSettings
    history: tuple[float, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    training: tuple[Problem, ...] = ()
    acquisitions: tuple[Acquisition, ...] = ()

    def require_suitable(self, acquisition: Acquisition) -> None:  # noqa: B027 - most can
        """Raise `AcquisitionError` if it cannot be applied to such runs; a prior always can."""

    def learnt_with(self, acquisition: Acquisition) -> bool:
        """Tell whether it was learnt from runs with such shells, or from none at all."""
        shells = self.shells(acquisition)
        tolerance = self.settings.shell_tolerance
        return not self.acquisitions or any(
            self.shells(own).agree(shells, tolerance) for own in self.acquisitions
        )

    def shells(self, acquisition: Acquisition) -> Shells:
        """Group measurements as its settings say."""
        return find_shells(
            acquisition,
            b0_threshold=self.settings.b0_threshold,
            shell_tolerance=self.settings.shell_tolerance,
        )

    @abstractmethod
    def posterior(self, run: Measurements) -> ParameterPosterior:
        """Estimate every voxel of a run, in the order of its rows."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Give everything learnt as named tensors."""

    @classmethod
    @abstractmethod
    def from_state(
        cls,
        signal_model: SignalModel,
        settings: ModelSettings,
        state: Mapping[str, Tensor],
        *,
        history: tuple[float, ...],
        summary: Mapping[str, Any],
    ) -> Fit:
        """Rebuild the fit from what `state` gave."""

    def save(self, path: Path) -> None:
        """Write settings and tensors; no code is pickled.

        Files that the user gave are known by their names: the bytes do not depend on folders.
        """
        given = dataclasses.asdict(self.settings)
        del given["reuse_fit"]
        files = ("mask", "noise_map", "prior_from")
        model_settings = {
            key: Path(value).name if key in files and value is not None else value
            for key, value in given.items()
        }
        header = {
            "estimator": self.estimator,
            "signal_model": self.signal_model.name,
            "latents": latents_of(self.signal_model),
            "settings": model_settings,
            "history": list(self.history),
            "summary": dict(self.summary),
        }
        columns = [dict(acquisition.columns) for acquisition in self.acquisitions]
        SavedFit(header, self.state(), columns).write(path)


class Estimator(ABC):
    """A way to get from signals to tissue parameters.

    Parameters
    ----------
    signal_model : SignalModel
        The physics.
    settings : ModelSettings
        Everything the user chose.
    device : torch.device or str
        Where to compute.
    progress : callable
        Told about each training step.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    #: What the training raises, as the progress line and the report call it.
    objective: ClassVar[str] = "ELBO (nats per voxel)"
    #: Whether it can draw from the posterior.
    draws: ClassVar[bool] = False

    def __init__(
        self,
        signal_model: SignalModel,
        settings: ModelSettings | None = None,
        *,
        device: torch.device | str = "cpu",
        progress: Progress = no_progress,
    ) -> None:
        self.signal_model = signal_model
        self.settings = settings or ModelSettings()
        self.device = torch.device(device)
        self.progress = progress

    def check(self, run: Measurements) -> None:
        """Raise `AcquisitionError` if the run does not support the signal model."""
        shells = find_shells(
            run.acquisition,
            b0_threshold=self.settings.b0_threshold,
            shell_tolerance=self.settings.shell_tolerance,
        )
        self.signal_model.check(run.acquisition, shells)

    @abstractmethod
    def fit(self, *runs: Measurements) -> Fit:
        """Learn from all voxels of the given runs, jointly.

        Raises
        ------
        AcquisitionError
            If a run does not support the signal model.
        """


def restore(fit_class: type[Fit], saved: SavedFit) -> Fit:
    """Rebuild a fit of a known class from its file.

    Raises
    ------
    InputError
        If its latents mean something else in this version.
    """
    header = saved.header
    signal_model = get_signal_model(header["signal_model"])
    if header["latents"] != latents_of(signal_model):
        raise InputError(f"its signal model {signal_model.name} has other parameters now")
    raw = dict(header["settings"])
    raw["signal_model"] = tuple(raw["signal_model"])
    fit = fit_class.from_state(
        signal_model,
        ModelSettings(**raw),
        saved.state,
        history=tuple(header["history"]),
        summary=header["summary"],
    )
    acquisitions = tuple(Acquisition(**columns) for columns in saved.acquisitions)
    return dataclasses.replace(fit, acquisitions=acquisitions)
