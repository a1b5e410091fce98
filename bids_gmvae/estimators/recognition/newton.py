"""Recognition by optimisation: Levenberg-Marquardt to the mode, curvature from the physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.recognition.base import TOLERANCE, Recognised, Recognition, recognise
from bids_gmvae.estimators.solver import NormalPenalty, solve


class Newton(Recognition):
    """Recognition without a network; nothing to train, nothing to store."""

    name = "newton"
    n_refine_steps = 20

    def train(self, problems: Sequence[Problem], generator: torch.Generator) -> None:
        """Learn nothing."""

    def first(self, problem: Problem) -> Recognised:
        """Iterate from the centre of the broad population until nothing is gained."""
        start = problem.start()
        penalty = NormalPenalty.standard(start.z)
        return recognise(problem, solve(problem, start, penalty=penalty, tolerance=TOLERANCE))

    def state(self) -> dict[str, Tensor]:
        """Give nothing: there are no weights."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take nothing over."""
