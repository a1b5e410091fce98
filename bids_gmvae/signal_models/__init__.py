"""Signal models by name, and the choice of one by what an acquisition supports."""

from __future__ import annotations

from bids_gmvae.acquisition import Acquisition, Shells, find_shells
from bids_gmvae.exceptions import AcquisitionError, UnknownNameError
from bids_gmvae.signal_models.ball_stick import BallStick
from bids_gmvae.signal_models.ball_stick_tied import BallStickTied
from bids_gmvae.signal_models.base import Parameter, SignalModel
from bids_gmvae.signal_models.ivim import IVIM
from bids_gmvae.signal_models.msdki import MSDKI
from bids_gmvae.signal_models.t2_adc import T2ADC

SIGNAL_MODELS: dict[str, type[SignalModel]] = {
    model.name: model for model in (MSDKI, BallStick, BallStickTied, T2ADC, IVIM)
}

#: What ``auto`` tries, in this order, with the reason that is told to the user.
PREFERENCE = (
    ("t2_adc", "several echo times and b-values"),
    ("ivim", "several low b-values"),
    ("msdki", "two or more shells"),
    ("ball_stick_tied", "one shell with enough directions"),
)

__all__ = [
    "SIGNAL_MODELS",
    "Parameter",
    "SignalModel",
    "choose_signal_model",
    "get_signal_model",
]


def get_signal_model(name: str) -> SignalModel:
    """Give the signal model of that name.

    Raises
    ------
    UnknownNameError
        If there is none; lists what there is.
    """
    try:
        return SIGNAL_MODELS[name]()
    except KeyError:
        raise UnknownNameError.of("signal model", name, SIGNAL_MODELS) from None


def choose_signal_model(
    name: str, acquisition: Acquisition, shells: Shells | None = None
) -> tuple[SignalModel, str]:
    """Resolve ``auto`` and tie ball-stick on one shell.

    Parameters
    ----------
    name : str
        A registered name, or ``"auto"``.
    acquisition : Acquisition
        What was measured.
    shells : Shells, optional
        Its shells, as the user defines them; with the default thresholds if not given.

    Returns
    -------
    model : SignalModel
        The model to fit; it supports the acquisition.
    reason : str
        Why this one, for the user.

    Raises
    ------
    AcquisitionError
        If the named model, or no model at all, supports the acquisition.

    Examples
    --------
    >>> import torch
    >>> model, reason = choose_signal_model(
    ...     "auto", Acquisition(bvals=torch.tensor([0.0, 1000.0, 2000.0])))
    >>> model.name, reason
    ('msdki', 'chosen for two or more shells')
    """
    shells = find_shells(acquisition) if shells is None else shells
    if name == "auto":
        for candidate, reason in PREFERENCE:
            model = get_signal_model(candidate)
            try:
                model.check(acquisition, shells)
            except AcquisitionError:
                continue
            return model, f"chosen for {reason}"
        bvals = shells.acquisition.bvals
        raise AcquisitionError(
            "No signal model fits this acquisition: b-values "
            f"{', '.join(f'{b:.0f}' for b in bvals)} s/mm^2, {len(acquisition)} volumes.",
            "At least two shells, or one shell with six directions, are needed.",
        )
    model = get_signal_model(name)
    if isinstance(model, BallStick) and int((~shells.is_b0).sum()) == 1:
        model = BallStickTied()
        model.check(acquisition, shells)
        return model, "one shell: stick and ball share one diffusivity"
    model.check(acquisition, shells)
    return model, "as requested"
