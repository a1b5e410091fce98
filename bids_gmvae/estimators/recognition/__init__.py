"""Ways to get from a voxel's data to a Gaussian potential on its latents, by name."""

from __future__ import annotations

from bids_gmvae.estimators.recognition.base import Recognised, Recognition
from bids_gmvae.estimators.recognition.network import Network
from bids_gmvae.estimators.recognition.newton import Newton
from bids_gmvae.exceptions import UnknownNameError

RECOGNITIONS: dict[str, type[Recognition]] = {item.name: item for item in (Newton, Network)}

__all__ = ["RECOGNITIONS", "Recognised", "Recognition", "get_recognition"]


def get_recognition(name: str) -> Recognition:
    """Give a new recognition of that name.

    Raises
    ------
    UnknownNameError
        If there is none; lists what there is.
    """
    try:
        return RECOGNITIONS[name]()
    except KeyError:
        raise UnknownNameError.of("recognition", name, RECOGNITIONS) from None
