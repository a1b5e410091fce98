"""Estimators by name."""

from __future__ import annotations

from pathlib import Path

from bids_gmvae.estimators.base import Estimator, Fit, Measurements, read_fit, restore
from bids_gmvae.estimators.gmvae import GMVAE, GMVAEFit
from bids_gmvae.estimators.lsq import LSQ, LSQFit
from bids_gmvae.estimators.mlp import MLP, MLPFit
from bids_gmvae.estimators.vae_gmm import VAEGMM, VAEGMMFit
from bids_gmvae.estimators.vae_unig import VAEUniG, VAEUniGFit
from bids_gmvae.exceptions import InputError, UnknownNameError

ESTIMATORS: dict[str, type[Estimator]] = {
    estimator.name: estimator for estimator in (GMVAE, LSQ, MLP, VAEUniG, VAEGMM)
}

FITS: dict[str, type[Fit]] = {
    fit.estimator: fit for fit in (GMVAEFit, LSQFit, MLPFit, VAEUniGFit, VAEGMMFit)
}

__all__ = ["ESTIMATORS", "Estimator", "Fit", "Measurements", "get_estimator", "load_fit"]


def get_estimator(name: str) -> type[Estimator]:
    """Give the estimator class of that name.

    Raises
    ------
    UnknownNameError
        If there is none; lists what there is.
    """
    try:
        return ESTIMATORS[name]
    except KeyError:
        raise UnknownNameError.of("estimator", name, ESTIMATORS) from None


def load_fit(path: Path) -> Fit:
    """Read a saved fit, whichever estimator made it.

    Raises
    ------
    InputError
        If the file is no fit, one of another format, or damaged.
    """
    header, state = read_fit(path)
    try:
        return restore(FITS[header["estimator"]], header, state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"The fit {path} is damaged, or from another version: {error}.",
            "Fit again without --reuse-fit.",
        ) from error
