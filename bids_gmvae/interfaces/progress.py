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
def fit_progress(label: str, objective: str) -> Iterator[Callable[[int, int, float], None]]:
    """Give the function that an estimator tells its steps to.

    Parameters
    ----------
    label : str
        What is being fitted, e.g. ``"sub-01 msdki"``.
    objective : str
        What the training raises, e.g. ``"ELBO (nats per voxel)"``.

    Yields
    ------
    callable
        Takes (step, n_steps, value of the objective).
    """
    if not sys.stderr.isatty():
        yield _lines(label, objective)
        return
    from tqdm import tqdm

    position = int(os.environ.get(LINE_VARIABLE, "0"))
    with tqdm(desc=label, unit="step", position=position, leave=False, dynamic_ncols=True) as bar:

        def update(step: int, n_steps: int, value: float) -> None:
            bar.total = n_steps
            bar.set_postfix_str(f"{objective} {value:.2f}", refresh=False)
            bar.update(step - bar.n)

        yield update


def _lines(label: str, objective: str) -> Callable[[int, int, float], None]:
    told = 0

    def update(step: int, n_steps: int, value: float) -> None:
        nonlocal told
        part = step * N_LINES // max(n_steps, 1)
        if part > told:
            told = part
            LOGGER.info("%s: step %d of %d, %s %.2f", label, step, n_steps, objective, value)

    return update
