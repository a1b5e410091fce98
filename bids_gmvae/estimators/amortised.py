"""What the self-supervised networks of the literature share: data, training, posterior."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bids_gmvae.acquisition import Acquisition, Shells, find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Estimator, Fit, Measurements
from bids_gmvae.estimators.chunks import in_chunks
from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.estimators.residuals import (
    at_bound,
    status_of,
    summarise_residuals,
    usable_voxels,
)
from bids_gmvae.exceptions import AcquisitionError, InputError
from bids_gmvae.nn.training import RelativeSignals, train
from bids_gmvae.nn.vae import PhysicsNetwork
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.signal_models.base import SignalModel

#: More voxels than this do not make the networks better, only slower.
MAX_TRAINING_VOXELS = 20_000

#: Least mean over the least weighted shell, in noise sd. Below it the mean is mostly noise, and
#: what is divided by it may be of any size.
MIN_LEVEL = 2.0

#: Signals of tissue are at most 1 relative to the least weighted shell, and noise adds less than
#: 2 where that is at least `MIN_LEVEL`. Beyond lie artefacts, whose square would decide the loss.
MAX_RELATIVE_SIGNAL = 5.0

#: Draws of the latent for the posterior, unless the settings ask for more.
MIN_DRAWS = 32

#: Directions may turn together, as with the head. If the angles between them differ by so many
#: degrees (mean), stick fractions are 15 % less precise; by 8 degrees 50 %.
MOST_APART = 4.0

#: Voxels drawn at once; every draw of a mixture holds a whole latent.
VOXELS_PER_DRAW = 1024

OBJECTIVE = "negative loss per voxel: -(mean squared error of relative signals + kl_weight * KL)"


@dataclass(frozen=True, eq=False, kw_only=True)
class AmortisedFit(Fit):
    """A trained network.

    Attributes
    ----------
    network : PhysicsNetwork
        Trained on signals relative to the least weighted shell.
    shell_index : Tensor of shape (n_measurements,)
        Shell of each measurement it was trained with.
    """

    network: PhysicsNetwork
    shell_index: Tensor

    @classmethod
    @abstractmethod
    def build(
        cls, signal_model: SignalModel, settings: ModelSettings, n_measurements: int
    ) -> PhysicsNetwork:
        """Make an untrained network."""

    def require_suitable(self, acquisition: Acquisition) -> None:
        """Raise `AcquisitionError` unless the measurements are those it was trained with."""
        check_same(self.acquisitions[0], acquisition, self.signal_model, self.settings)

    def posterior(self, run: Measurements) -> ParameterPosterior:
        """Draw latents for every voxel; their spread is the posterior the network claims."""
        self.require_suitable(run.acquisition)
        device = self.network.encoder.center.device
        return in_chunks(self._posterior, run, device=device, seed=self.settings.random_seed)

    @torch.no_grad()
    def _posterior(
        self, run: Measurements, usable: Tensor, *, generator: torch.Generator
    ) -> ParameterPosterior:
        model = self.signal_model
        data = relative_signals(run, model, self.shell_index, self.settings)
        values, orientations, responsibilities = self._draw(data)
        mean, std = _moments(values)
        orientation = None
        if orientations is not None:
            orientation = normalize(orientations.mean(dim=0), dim=-1)

        # What the least weighted shell has lost already is given back to S0.
        level = run.signals[:, data.reference].mean(dim=1)
        kept = model(mean, run.acquisition, orientation)[:, data.reference].mean(dim=1)
        usable = usable & (level >= MIN_LEVEL * run.sigma)
        s0 = torch.where(usable, level, 1.0) / kept

        problem = _problem(run, model, self.settings)
        state = State(torch.log(s0), model.to_real(mean), orientation)
        overall, by_shell = summarise_residuals(problem, state)
        always, never = torch.ones_like(usable), torch.zeros_like(usable)
        derived = {}
        for parameter, drawn in model.derived(values).items():
            derived[parameter] = _moments(drawn)
        n_samples = self.settings.posterior_samples
        return ParameterPosterior(
            signal_model=model,
            mean=mean,
            std=std,
            status=status_of(usable, always, at_bound(model, mean), never),
            s0=s0,
            residual=overall,
            shell_residual=by_shell,
            responsibilities=responsibilities,
            orientation=orientation,
            samples=_some(values, n_samples, generator) if n_samples else None,
            derived=derived,
        )

    def _draw(self, data: RelativeSignals) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Draw values (n_draws, n_voxels, n_parameters), orientations alike, responsibilities."""
        noise = shared_noise(self.network.n_noise, self.settings).to(data.signals)
        draws = []
        for first in range(0, len(data), VOXELS_PER_DRAW):
            part = data.select(slice(first, first + VOXELS_PER_DRAW))
            draws.append(self.network(part.signals, noise, part.axes))
        values = torch.cat([draw.values for draw in draws], dim=-2).double()
        orientations = _joined([draw.orientation for draw in draws])
        weights = _joined([draw.log_responsibilities for draw in draws])
        return values, orientations, None if weights is None else weights.exp()

    def state(self) -> dict[str, Tensor]:
        """Give the weights and the shells."""
        return {"shell_index": self.shell_index, **self.network.state_dict(prefix="network.")}

    @classmethod
    def from_state(
        cls,
        signal_model: SignalModel,
        settings: ModelSettings,
        state: Mapping[str, Tensor],
        *,
        history: tuple[float, ...],
        summary: Mapping[str, Any],
    ) -> AmortisedFit:
        """Rebuild the network and load its weights."""
        weights = {
            key.removeprefix("network."): value
            for key, value in state.items()
            if key.startswith("network.")
        }
        with torch.random.fork_rng(devices=[]):
            network = cls.build(signal_model, settings, len(state["shell_index"]))
        network.load_state_dict(weights)
        return cls(
            signal_model=signal_model,
            settings=settings,
            history=history,
            summary=summary,
            network=network.eval().requires_grad_(False),
            shell_index=state["shell_index"],
        )


class AmortisedEstimator(Estimator):
    """Trains one network on the voxels of all runs."""

    fit_class: ClassVar[type[AmortisedFit]]
    objective = "objective (negative loss per voxel)"
    draws = True

    def fit(self, *runs: Measurements) -> AmortisedFit:
        """Train on at most `MAX_TRAINING_VOXELS`, shared out evenly between the runs.

        Raises
        ------
        AcquisitionError
            If a run does not support the signal model, or the runs differ in their shells.
        InputError
            If no voxel can be used.
        GMVAEError
            If the training fails.
        """
        settings = self.settings
        shell_index = _shells(runs[0].acquisition, settings).index
        generator = torch.Generator(self.device).manual_seed(settings.random_seed)
        data = []
        for run in runs:
            self.check(run)
            check_same(runs[0].acquisition, run.acquisition, self.signal_model, settings)
            n_voxels = MAX_TRAINING_VOXELS // len(runs)
            chosen = _choose_voxels(
                run.to(self.device, torch.float64), shell_index, n_voxels, generator
            )
            if len(chosen):
                data.append(relative_signals(chosen, self.signal_model, shell_index, settings))
        if not data:
            raise InputError(
                "No voxel has a finite signal that varies between volumes and that, where it is "
                f"least weighted, is at least {MIN_LEVEL:g} times the noise.",
                "Check the mask and the noise level.",
            )

        # Layers draw their initial weights from the global generator, which is put back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.random_seed)
            network = self.fit_class.build(self.signal_model, settings, len(shell_index))
        network.to(self.device)
        network.encoder.standardise(torch.cat([run.signals for run in data]))
        history = train(
            network,
            data,
            n_epochs=settings.n_epochs,
            kl_weight=settings.kl_weight,
            generator=generator,
            progress=self.progress,
        )
        return self.fit_class(
            signal_model=self.signal_model,
            settings=settings,
            history=history,
            summary={
                "objective": OBJECTIVE,
                "device": str(self.device),
                "n_epochs": settings.n_epochs,
                "n_training_voxels": sum(len(run) for run in data),
            },
            acquisitions=tuple(run.acquisition for run in runs),
            network=network.eval().requires_grad_(False),
            shell_index=shell_index,
        )


def relative_signals(
    run: Measurements, signal_model: SignalModel, shell_index: Tensor, settings: ModelSettings
) -> RelativeSignals:
    """Divide signals by their mean over the least weighted shell, in single precision.

    Voxels without signal there are left as they are.
    """
    reference = shell_index.to(run.signals.device) == 0
    level = run.signals[:, reference].mean(dim=1, keepdim=True)
    signals = run.signals / torch.where(level > 0, level, torch.ones_like(level))
    axes = _problem(run, signal_model, settings).start().orientation
    if axes is not None:
        # An axis has no sign, but a correction to it needs one.
        axes = torch.where(axes[:, 2:] < 0, -axes, axes).float()
    return RelativeSignals(signals.float(), axes, run.acquisition.to(torch.float32), reference)


def shared_noise(n_noise: int, settings: ModelSettings) -> Tensor:
    """Draw the noise of the posterior, the same for every voxel.

    Sharing it makes a voxel's estimate independent of its neighbours and of the order of rows;
    mirrored pairs and exact unit covariance make its mean and spread nearly exact.

    Returns
    -------
    Tensor of shape (n_draws, 1, n_noise)
        Mean 0, covariance 1 over the draws; a single draw if there is nothing to draw.
    """
    if n_noise == 0:
        return torch.zeros(1, 1, 0)
    n_pairs = max(MIN_DRAWS // 2, (settings.posterior_samples + 1) // 2, n_noise)
    generator = torch.Generator().manual_seed(settings.random_seed)
    noise = torch.randn(n_pairs, n_noise, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(noise.T @ noise / n_pairs)
    noise = torch.linalg.solve_triangular(factor, noise.T, upper=False).T
    return torch.cat([noise, -noise])[:, None]


def check_same(
    expected: Acquisition, found: Acquisition, signal_model: SignalModel, settings: ModelSettings
) -> None:
    """Raise `AcquisitionError` unless the measurements are those a network was trained with."""
    one, other = _shells(expected, settings), _shells(found, settings)
    differs = ""
    if not one.agree(other, settings.shell_tolerance) or not torch.equal(one.counts, other.counts):
        differs = f"{one} were expected, {other} were found"
    elif not torch.equal(one.index, other.index):
        differs = f"{one} were expected, but in another order"
    elif signal_model.directional and (apart := _apart(expected, found, settings)) > MOST_APART:
        differs = f"the angles between their directions differ by {apart:.0f} degrees (mean)"
    if differs:
        raise AcquisitionError(
            f"A network takes the same measurements in the same order from every run: {differs}.",
            "Fit each run by itself, without --reuse-fit, or use --estimator gmvae.",
        )


def _apart(one: Acquisition, other: Acquisition, settings: ModelSettings) -> float:
    """Average how far the angles between directions differ, degrees."""
    angles = []
    for acquisition in (one.to("cpu", torch.float64), other.to("cpu", torch.float64)):
        vectors = acquisition.bvecs[acquisition.bvals > settings.b0_threshold]
        angles.append(torch.rad2deg(torch.acos((vectors @ vectors.T).abs().clamp(max=1))))
    return float((angles[0] - angles[1]).abs().mean())


def _shells(acquisition: Acquisition, settings: ModelSettings) -> Shells:
    return find_shells(
        acquisition.to("cpu"),
        b0_threshold=settings.b0_threshold,
        shell_tolerance=settings.shell_tolerance,
    )


def _choose_voxels(
    run: Measurements, shell_index: Tensor, n_voxels: int, generator: torch.Generator
) -> Measurements:
    """Choose usable voxels of which none can decide the loss by itself, at random."""
    reference = shell_index.to(run.signals.device) == 0
    level = run.signals[:, reference].mean(dim=1)
    usable = usable_voxels(run) & (level >= MIN_LEVEL * run.sigma)
    usable &= run.signals.amax(dim=1) <= MAX_RELATIVE_SIGNAL * level
    candidates = usable.nonzero().squeeze(1)
    order = torch.randperm(len(candidates), generator=generator, device=candidates.device)
    return run.select(candidates[order[:n_voxels]])


def _problem(run: Measurements, signal_model: SignalModel, settings: ModelSettings) -> Problem:
    # The squared error compares with the magnitude itself: no Rician mean lies in between.
    return Problem.of(run, signal_model, replace(settings, noise_model="gaussian"))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """Join rows of voxels, unless there are none."""
    present = [part for part in parts if part is not None]
    return torch.cat(present, dim=-2).double() if present else None


def _some(values: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    """Choose draws, others for each voxel, since all voxels share the noise of a draw.

    Gives (n_voxels, n_parameters, n_samples) of (n_draws, n_voxels, n_parameters).
    """
    n_draws, n_voxels, n_parameters = values.shape
    order = torch.rand(n_voxels, n_draws, generator=generator).argsort(dim=1)[:, :n_samples]
    chosen = order[:, None].expand(-1, n_parameters, -1).to(values.device)
    return values.permute(1, 2, 0).gather(2, chosen).float()


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean and sd over the draws; the sd of a single draw is unknown (NaN)."""
    mean = values.mean(dim=0)
    if len(values) == 1:
        return mean, torch.full_like(mean, torch.nan)
    return mean, values.std(dim=0, correction=0)
