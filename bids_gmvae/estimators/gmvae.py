"""The structured variational autoencoder with a learnt Gaussian-mixture prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Estimator, Fit, Measurements
from bids_gmvae.estimators.chunks import in_chunks
from bids_gmvae.estimators.inference import infer
from bids_gmvae.estimators.learning import learn_prior
from bids_gmvae.estimators.moments import derived_moments, draw, moments, quantiles
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.recognition import Recognition, get_recognition
from bids_gmvae.estimators.residuals import (
    at_bound,
    fit_residuals,
    status_of,
    usable_voxels,
)
from bids_gmvae.estimators.saved_prior import identity, prior_for
from bids_gmvae.exceptions import AcquisitionError, InputError
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.priors import GaussianMixturePrior, MixturePosterior, Potential
from bids_gmvae.signal_models.base import SignalModel

#: The prior is learnt on at most this many voxels, drawn at random. Models with directions tell
#: more about each: half as many lose less than .5 % in error.
N_TRAINING, N_TRAINING_DIRECTIONAL = 8_000, 4_000
#: Above this prior influence the voxel's own data hardly count.
UNIDENTIFIED = 0.9
#: Radians, 10 degrees. Where a fibre may point further off, noise points somewhere as well: the
#: fraction along the best direction is then too large, and its interval too short.
NO_DIRECTION = math.pi / 18
#: Components lighter than this are called inactive.
ACTIVE_WEIGHT = 0.005
PRIOR_TENSORS = ("weights", "means", "covariances", "lower", "upper", "fixed", "pull")


@dataclass(frozen=True, eq=False)
class GMVAEFit(Fit):
    """A learnt mixture prior, and how to combine it with a voxel's data.

    Attributes
    ----------
    prior : GaussianMixturePrior
        Learnt from all voxels, on the CPU in double precision.
    recognition : Recognition
        How data become potentials; holds the weights, if any.
    """

    estimator = "gmvae"

    prior: GaussianMixturePrior = field(kw_only=True)
    recognition: Recognition = field(kw_only=True)

    def posterior(self, run: Measurements, *, with_quantiles: bool = False) -> ParameterPosterior:
        """Combine the prior with every voxel's data.

        Parameters
        ----------
        run : Measurements
            All voxels.
        with_quantiles : bool
            Also search the central 68 % intervals, of which no map is made.

        Returns
        -------
        ParameterPosterior
            In the order of the rows of ``run``.
        """
        estimate = partial(self._posterior, with_quantiles=with_quantiles)
        device = self.summary.get("device", "cpu")
        return in_chunks(estimate, run, device=device, seed=self.settings.random_seed)

    def _posterior(
        self,
        run: Measurements,
        usable: Tensor,
        *,
        generator: torch.Generator,
        with_quantiles: bool,
    ) -> ParameterPosterior:
        model = self.signal_model
        prior = self.prior.to(run.signals)
        problem = Problem.of(run, model, self.settings)
        potential, recognised = infer(problem, self.recognition, prior)
        mixture = prior.posterior(potential)
        if problem.averaged:
            recognised = self.recognition.refine(problem, recognised, mixture, prior)
        mean, std = moments(mixture, model)
        influence = prior_influence(mixture, potential)
        best = mixture.responsibilities.argmax(dim=1)
        overall, by_shell = fit_residuals(problem, recognised.state, prior.precisions[best])
        unidentified = (influence > UNIDENTIFIED).any(dim=1)
        if recognised.tilt is not None:
            unidentified |= recognised.tilt > NO_DIRECTION
        n_samples = self.settings.posterior_samples
        return ParameterPosterior(
            signal_model=model,
            mean=mean,
            std=std,
            status=status_of(usable, recognised.converged, at_bound(model, mean), unidentified),
            s0=torch.exp(recognised.state.log_s0),
            residual=overall,
            shell_residual=by_shell,
            prior_influence=influence,
            responsibilities=mixture.responsibilities[:, :-1],
            unexpected=mixture.responsibilities[:, -1],
            orientation=recognised.state.orientation,
            quantiles=quantiles(mixture, model) if with_quantiles else None,
            samples=draw(mixture, model, n_samples, generator) if n_samples else None,
            derived=derived_moments(mixture, model),
        )

    def require_suitable(self, acquisition: Acquisition) -> None:
        """Raise `AcquisitionError` if a network recognises, and was trained with other shells."""
        if self.recognition.state() and not self.learnt_with(acquisition):
            raise AcquisitionError(
                "A recognition network needs the shells it was trained with, which are "
                f"{self.shells(self.acquisitions[0])}, but {self.shells(acquisition)} were found.",
                "Fit the run without --reuse-fit, or learn with --recognition newton.",
            )

    def state(self) -> dict[str, Tensor]:
        """Give the tensors of prior and recognition."""
        prior = {name: getattr(self.prior, name) for name in PRIOR_TENSORS}
        return {**prior, **self.recognition.state()}

    @classmethod
    def from_state(
        cls,
        signal_model: SignalModel,
        settings: ModelSettings,
        state: Mapping[str, Tensor],
        *,
        history: tuple[float, ...],
        summary: Mapping[str, Any],
    ) -> GMVAEFit:
        """Rebuild from the tensors of prior and recognition."""
        prior = GaussianMixturePrior(**{name: state[name] for name in PRIOR_TENSORS})
        if prior.means.shape[1] != len(signal_model.parameters):
            raise InputError(
                f"The fit has {prior.means.shape[1]} latents, {signal_model.name} has "
                f"{len(signal_model.parameters)} parameters.",
                "Fit again without --reuse-fit.",
            )
        recognition = get_recognition(settings.recognition)
        recognition.load(state)
        return cls(signal_model, settings, history, summary, prior=prior, recognition=recognition)


class GMVAE(Estimator):
    """Recognition gives potentials, a mixture prior is learnt from them, physics decodes."""

    name = "gmvae"
    description = "Structured variational autoencoder with a learnt Gaussian-mixture prior"
    draws = True

    def fit(self, *runs: Measurements) -> GMVAEFit:
        """Learn the prior of all voxels of the runs, jointly, unless one is given."""
        generator = torch.Generator().manual_seed(self.settings.random_seed)
        problems = [
            Problem.of(run, self.signal_model, self.settings)
            for run in self._training_voxels(runs, generator)
        ]
        recognition = get_recognition(self.settings.recognition)
        recognition.train(problems, generator)
        prior, history, origin = self._prior(problems, recognition, generator)
        n_voxels = sum(len(problem) for problem in problems)
        return GMVAEFit(
            self.signal_model,
            replace(self.settings, n_components=prior.n_components),
            tuple(history),
            {**self._summary(prior, n_voxels), **origin},
            tuple(problems),
            tuple(run.acquisition for run in runs),
            prior=prior.to(torch.zeros((), dtype=torch.float64)),
            recognition=recognition,
        )

    def _prior(
        self, problems: Sequence[Problem], recognition: Recognition, generator: torch.Generator
    ) -> tuple[GaussianMixturePrior, list[float], dict[str, Any]]:
        """Learn the prior, or read the one that is given; with its history and its origin."""
        if self.settings.prior_from is not None:
            path = Path(self.settings.prior_from)
            prior, content = prior_for(path, self.signal_model)
            origin = {"prior": identity(path), "n_training_voxels": content.get("Voxels")}
            return prior, [], origin
        prior, history = learn_prior(
            problems,
            recognition,
            n_components=self.settings.n_components,
            anchor=free_water_anchor(self.signal_model, self.settings, problems[0].data),
            generator=generator,
            progress=self.progress,
        )
        return prior.sorted(), history, {}

    def _training_voxels(
        self, runs: tuple[Measurements, ...], generator: torch.Generator
    ) -> list[Measurements]:
        """Draw usable voxels from all runs, in proportion to their size."""
        usable = [torch.nonzero(usable_voxels(run))[:, 0] for run in runs]
        total = sum(len(voxels) for voxels in usable)
        if total == 0:
            raise InputError(
                "No voxel can be fitted: all are non-finite, constant or without noise level.",
                "Check the image and the mask.",
            )
        most = N_TRAINING_DIRECTIONAL if self.signal_model.directional else N_TRAINING
        chosen = []
        for run, voxels in zip(runs, usable, strict=True):
            self.check(run)
            n = min(len(voxels), max(1, round(most * len(voxels) / total)))
            drawn = voxels[torch.randperm(len(voxels), generator=generator)[:n].sort().values]
            chosen.append(run.select(drawn).to(self.device, torch.float64))
        return chosen

    def _summary(self, prior: GaussianMixturePrior, n_training: int) -> dict[str, Any]:
        model = self.signal_model
        tissue = prior.weights[:-1]
        return {
            "device": str(self.device),
            "recognition": self.settings.recognition,
            "n_components": prior.n_components,
            "n_active": int((tissue > ACTIVE_WEIGHT).sum()),
            "n_training_voxels": n_training,
            "component_weights": [round(float(weight), 6) for weight in tissue],
            "unexpected_weight": round(float(prior.weights[-1]), 6),
            "component_means": [
                [float(f"{float(value):.6g}") for value in row]
                for row in model.to_physical(prior.means[:-1])
            ],
        }


def free_water_anchor(
    signal_model: SignalModel, settings: ModelSettings, like: Tensor
) -> Tensor | None:
    """Give the latents of free water, if a component shall stay there, typed as ``like``."""
    if not settings.free_water_anchor:
        return None
    if signal_model.free_water is None:
        raise InputError(
            f"The signal model {signal_model.name} has no free-water anchor.",
            "Leave --free-water-anchor out, or use --signal-model msdki.",
        )
    if settings.n_components < 2:
        raise InputError(
            "A free-water anchor needs a component besides it, --n-components is 1.",
            "Use --n-components 2 or more.",
        )
    return signal_model.to_real(torch.tensor(signal_model.free_water, dtype=torch.float64)).to(
        like
    )


def prior_influence(mixture: MixturePosterior, potential: Potential) -> Tensor:
    """Give the share of the information about each latent that came from the prior.

    One minus the diagonal of the averaging kernel, (precision + prior precision)^-1 precision,
    averaged over components (Rodgers 2000, https://doi.org/10.1142/3171).

    Returns
    -------
    Tensor of shape (n_voxels, n_latent)
        Within [0, 1].
    """
    potential = potential.by_component(mixture.responsibilities.shape[1])
    kernel = torch.einsum(
        "vk,vkpq,vkqp->vp", mixture.responsibilities, mixture.covariances, potential.precision
    )
    return (1 - kernel).clamp(0, 1)
