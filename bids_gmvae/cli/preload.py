"""What the server imports, once, that all children are forked from; no thread is started by it."""

import gc
import importlib
import os
import warnings
from collections.abc import Iterable
from contextlib import suppress

#: The process that started this one.
COMMAND = os.getppid()

#: What it takes to find, check and validate.
MODULES = (
    "torch", "nibabel", "bids.layout", "bids_gmvae.interfaces", "bids_gmvae.cli.plan",
    "bids_gmvae.modalities.dwi", "bids_gmvae.estimators", "bids_gmvae.io.validation",
)  # fmt: skip


def preload(modules: Iterable[str]) -> None:
    """Import modules, and whatever cannot be imported not: the child that needs it tells why."""
    # All of it stays. To look through it for garbage takes time here, and in each child memory,
    # too: what a child touches is copied.
    gc.disable()
    with warnings.catch_warnings():
        # Where they belong, nothing is set up yet.
        warnings.simplefilter("ignore")
        for name in modules:
            if os.getppid() != COMMAND:
                os._exit(1)  # it was killed, and nobody is left to serve
            with suppress(Exception):
                importlib.import_module(name)
    gc.freeze()
    gc.enable()


preload(MODULES)
