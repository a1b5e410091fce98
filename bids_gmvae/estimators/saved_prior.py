"""A learnt prior as a file of its own: JSON that people can read and other runs can use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bids_gmvae.exceptions import InputError, why_unreadable
from bids_gmvae.priors import GaussianMixturePrior
from bids_gmvae.signal_models import SIGNAL_MODELS, get_signal_model
from bids_gmvae.signal_models.base import SignalModel

#: Version of the layout of the file.
PRIOR_FORMAT = 1
#: How far the sum of the weights may be from 1: some begin in single precision.
ROUNDING = 1e-6

HINT = "Give the *_prior.json of `group --learn-prior`, unchanged."


def prior_content(
    prior: GaussianMixturePrior, signal_model: SignalModel, **about: Any
) -> dict[str, Any]:
    """Describe a prior by plain values, from which `prior_from_content` makes it again.

    Parameters
    ----------
    prior : GaussianMixturePrior
        On the latents of ``signal_model``.
    signal_model : SignalModel
        Whose tissue it is about.
    **about
        Further entries, such as where it was learnt.
    """
    values = signal_model.to_physical(prior.means[:-1])
    content = {
        "Description": f"Tissue prior of the signal model {signal_model.name}",
        "Format": PRIOR_FORMAT,
        "SignalModel": signal_model.name,
        **about,
        "Components": [
            {"Weight": _rounded(weight)}
            | dict(zip((p.name for p in signal_model.parameters), map(_rounded, row), strict=True))
            for weight, row in zip(prior.weights[:-1], values, strict=True)
        ],
        "Latents": latents_of(signal_model),
        "Prior": {name: tensor.tolist() for name, tensor in vars(prior).items()},
    }
    return {**content, "Checksum": _checksum(content)}


def prior_from_content(content: Mapping[str, Any]) -> GaussianMixturePrior:
    """Make the prior that `prior_content` described.

    Raises
    ------
    InputError
        If the values are no such description, were changed, or mean something else today.
    """
    if content.get("Format") != PRIOR_FORMAT:
        raise InputError(
            f"It has the format {content.get('Format')}, this version reads {PRIOR_FORMAT}.", HINT
        )
    named = {key: value for key, value in content.items() if key != "Checksum"}
    if content.get("Checksum") != _checksum(named):
        raise InputError("It was changed after it was written: the checksum differs.", HINT)
    name = content.get("SignalModel")
    known = name in [*SIGNAL_MODELS]  # whatever stands there, it need not have a hash
    if not known or content.get("Latents") != latents_of(get_signal_model(str(name))):
        raise InputError(
            f"Its signal model {name} is not defined as in this version of bids_gmvae.",
            "Learn the prior again with this version.",
        )
    try:
        prior = GaussianMixturePrior(
            **{
                part.name: torch.tensor(
                    content["Prior"][part.name],
                    dtype=torch.bool if part.name == "fixed" else torch.float64,
                )
                for part in fields(GaussianMixturePrior)
            }
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"It holds no mixture ({error!r}).", HINT) from error
    if prior.weights.ndim != 1 or not _is_proper(prior, len(content["Latents"])):
        raise InputError("Its weights, means and covariances are no mixture of normals.", HINT)
    return prior


def read_prior(path: Path) -> tuple[GaussianMixturePrior, dict[str, Any]]:
    """Read a prior, and all that its file says.

    Raises
    ------
    InputError
        If the file is no prior, was changed, or is of a version whose parameters differ.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"The prior {path} does not exist.", "Check --prior-from.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no prior: it is not JSON ({why_unreadable(error)}).", HINT
        ) from error
    if not isinstance(content, dict) or "Prior" not in content:
        raise InputError(f"{path} is no prior.", HINT)
    try:
        return prior_from_content(content), content
    except InputError as error:
        raise InputError(f"The prior {path} cannot be used. {error.message}", error.hint) from None


def prior_for(
    path: Path, signal_model: SignalModel
) -> tuple[GaussianMixturePrior, dict[str, Any]]:
    """Read a prior that must be for ``signal_model``.

    Raises
    ------
    InputError
        Also if it is for another one.
    """
    prior, content = read_prior(path)
    if content["SignalModel"] != signal_model.name:
        raise InputError(
            f"The prior {path} is for the signal model {content['SignalModel']}, "
            f"but the run is mapped with {signal_model.name}.",
            f"Use --signal-model {content['SignalModel']}, or another prior.",
        )
    return prior, content


def identity(path: Path) -> dict[str, str]:
    """Name a prior file without its folders, and by its content."""
    return {"File": path.name, "SHA256": hashlib.sha256(path.read_bytes()).hexdigest()}


def latents_of(signal_model: SignalModel) -> list[dict[str, Any]]:
    """Say what the latents are: means and covariances have no meaning without it."""
    return [
        {
            "Parameter": parameter.name,
            "Unit": parameter.unit,
            "Scale": parameter.scale,
            "Center": parameter.center,
            "Spread": parameter.spread,
            "Lower": parameter.lower,
            "Upper": parameter.upper,
        }
        for parameter in signal_model.parameters
    ]


def _is_proper(prior: GaussianMixturePrior, n_latent: int) -> bool:
    n = len(prior.weights)
    shapes = {
        "weights": (n,), "means": (n, n_latent), "covariances": (n, n_latent, n_latent),
        "lower": (n_latent,), "upper": (n_latent,), "fixed": (n,), "pull": (n_latent,),
    }  # fmt: skip
    if n < 2 or any(getattr(prior, name).shape != shape for name, shape in shapes.items()):
        return False
    symmetric = torch.allclose(prior.covariances, prior.covariances.mT, rtol=1e-9, atol=0)
    positive = bool((torch.linalg.cholesky_ex(prior.covariances).info == 0).all())
    weighted = bool((prior.weights > 0).all()) and abs(float(prior.weights.sum()) - 1) < ROUNDING
    finite = all(bool(torch.isfinite(getattr(prior, name)).all()) for name in shapes)
    return finite and symmetric and positive and weighted


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _rounded(value: Tensor) -> float:
    return float(f"{float(value):.4g}")
