"""How far a fit is: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger(__name__)

#: Environment variable of a worker: the line of the terminal that is its own.
LINE_VARIABLE = "BIDS_GMVAE_LINE"

#: Lines per fit where there is no terminal.
N_LINES = 5


@contextmanager
def fit_progress(label: str) -> Iterator[Callable[[int, int, float], None]]:
    """Give the function that an estimator tells its steps to.

    Parameters
    ----------
    label : str
        What is being fitted, e.g. ``"sub-01 msdki"``.

    Yields
    ------
    callable
        Takes (step, n_steps, ELBO per voxel in nats).
    """
    if not sys.stderr.isatty():
        yield _lines(label)
        return
    from tqdm import tqdm

    position = int(os.environ.get(LINE_VARIABLE, "0"))
    with tqdm(desc=label, unit="step", position=position, leave=False, dynamic_ncols=True) as bar:

        def update(step: int, n_steps: int, elbo: float) -> None:
            bar.total = n_steps
            bar.set_postfix_str(f"ELBO {elbo:.2f} nats/voxel", refresh=False)
            bar.update(step - bar.n)

        yield update


def _lines(label: str) -> Callable[[int, int, float], None]:
    told = 0

    def update(step: int, n_steps: int, elbo: float) -> None:
        nonlocal told
        part = step * N_LINES // max(n_steps, 1)
        if part > told:
            told = part
            LOGGER.info("%s: step %d of %d, ELBO %.2f nats/voxel", label, step, n_steps, elbo)

    return update
