"""Where to compute."""

from __future__ import annotations

import torch

from bids_gmvae.exceptions import DeviceError


def resolve_device(name: str) -> str:
    """Turn what the user asked for into a device that is there.

    Parameters
    ----------
    name : str
        ``auto`` (CUDA if there is any), ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    str
        ``cpu`` or ``cuda:N``.

    Raises
    ------
    DeviceError
        If CUDA was asked for and is not there. Falling back to the CPU would give other last
        digits than those asked for, hours later.

    Examples
    --------
    >>> resolve_device("cpu")
    'cpu'
    """
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if n_devices else "cpu"
    if name == "cpu":
        return name
    index = int(name.partition(":")[2] or 0)
    if index >= n_devices:
        found = f"{n_devices} CUDA device{'s' if n_devices > 1 else ''}" if n_devices else "none"
        raise DeviceError(
            f"--device {name} needs a CUDA device that this process can see; it sees {found}.",
            "Expose it with `docker run --gpus all` or `apptainer run --nv`, or use --device cpu.",
        )
    return f"cuda:{index}"
