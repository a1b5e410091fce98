"""Estimators by name."""

from __future__ import annotations

from pathlib import Path

from bids_gmvae import __version__
from bids_gmvae.estimators.base import Estimator, Fit, Measurements, restore
from bids_gmvae.estimators.gmvae import GMVAE, GMVAEFit
from bids_gmvae.estimators.lsq import LSQ, LSQFit
from bids_gmvae.estimators.mlp import MLP, MLPFit
from bids_gmvae.estimators.saved_fit import SavedFit
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
        If the file is no fit, one of another format or version, or was changed.
    """
    saved = SavedFit.read(path)
    try:
        return restore(FITS[saved.header["estimator"]], saved)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"The fit {path}, which version {saved.header.get('version')} of bids_gmvae wrote, "
            f"cannot be used by version {__version__}: {str(error).rstrip('.')}.",
            "Fit again without --reuse-fit.",
        ) from error
