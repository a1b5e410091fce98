"""What settings must be like beyond the command line: files, registries and runs are asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bids_gmvae.config import ModelSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.workflows.plan import PlannedRun

if TYPE_CHECKING:
    from bids_gmvae.acquisition import Acquisition
    from bids_gmvae.estimators import Fit
    from bids_gmvae.io.run import Run
    from bids_gmvae.modalities.base import Issue


def complete_settings(settings: ModelSettings, fit: Fit | None) -> ModelSettings:
    """Take over what a fit or a prior that is given brings: model, estimator, components.

    Raises
    ------
    InputError
        If the prior cannot be used, if it or the fit is for another signal model, if the estimator
        cannot draw although draws are asked for, or if free water would be all there is.
    """
    from bids_gmvae.estimators import get_estimator
    from bids_gmvae.estimators.saved_prior import read_prior

    if fit is not None:
        model = fit.signal_model.name
        _require_model(settings, model, f"The fit {settings.reuse_fit}", "--reuse-fit")
        settings = replace(
            settings,
            signal_model=(model,),
            estimator=fit.estimator,
            n_components=fit.settings.n_components,
        )
    if settings.prior_from is not None:
        prior, content = read_prior(settings.prior_from)
        model = content["SignalModel"]
        _require_model(settings, model, f"The prior {settings.prior_from}", "--prior-from")
        settings = replace(settings, signal_model=(model,), n_components=prior.n_components)
    if settings.posterior_samples and not get_estimator(settings.estimator).draws:
        raise InputError(
            "--posterior-samples asks for draws, but the estimator "
            f"{settings.estimator} cannot draw.",
            "Leave the option out, or use --estimator gmvae.",
        )
    if settings.free_water_anchor and settings.n_components < 2:
        raise InputError(
            f"--free-water-anchor needs a component besides it, but --n-components is "
            f"{settings.n_components}.",
            "Use --n-components 2 or more.",
        )
    return settings


def _require_model(settings: ModelSettings, model: str, what: str, option: str) -> None:
    """Refuse signal models other than that of a file."""
    if others := set(settings.signal_model) - {model, "auto"}:
        raise InputError(
            f"{what} is for the signal model {model}, but --signal-model asks for "
            f"{' and '.join(sorted(others))}.",
            f"Use --signal-model {model}, or leave {option} out.",
        )


def warn_of_fit(fit: Fit, path: Path, run: Run, acquisition: Acquisition) -> list[Issue]:
    """Warn of a prior that was learnt with other shells.

    Raises
    ------
    InputError
        If what was learnt cannot be applied to the run.
    """
    from bids_gmvae.modalities.base import Issue

    try:
        fit.require_suitable(acquisition)
    except InputError as error:
        message = f"The fit {path} cannot be applied to {run.image}. {error.message}"
        raise InputError(message, error.hint) from None
    if fit.learnt_with(acquisition):
        return []
    text = (
        f"The prior of {path} was learnt with {fit.shells(fit.acquisitions[0])}, but {run.image} "
        f"has {fit.shells(acquisition)}."
    )
    hint = "It is about tissue and may serve both; compare with the voxelwise maps (desc-lsq)."
    return [Issue("warning", "fit_of_another_acquisition", text, hint)]


def template_names(words: Iterable[str]) -> list[str]:
    """Name the templates that maps are brought to; each must exist."""
    from bids_gmvae.io.spaces import parse_space
    from bids_gmvae.io.templates import require_template

    names = [parse_space(word)[0] for word in words]
    for name in names:
        require_template(name)
    return names


def warn_of_spaces(planned: PlannedRun, spaces: Iterable[str]) -> PlannedRun:
    """Warn of templates that the run has no transform to."""
    from bids_gmvae.io.spaces import transform_of
    from bids_gmvae.modalities.base import Issue

    issues = [*planned.issues]
    for space in spaces:
        try:
            transform_of(planned.run, space)
        except InputError as error:
            issue = Issue("warning", "no_transform", error.message, error.hint)
            issues.append(issue.to_dict())
    return replace(planned, issues=tuple(issues))
