"""Voxelwise fit by maximum likelihood (Rician) or least squares (Gaussian)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Estimator, Fit, Measurements
from bids_gmvae.estimators.chunks import in_chunks
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.residuals import at_bound, fit_residuals, status_of
from bids_gmvae.estimators.solver import profile, solve
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.priors import invert
from bids_gmvae.signal_models.base import SignalModel


class LSQFit(Fit):
    """Nothing is learnt: every voxel is fitted by itself when it is asked for."""

    estimator = "lsq"

    def posterior(self, run: Measurements) -> ParameterPosterior:
        """Fit every voxel; the standard deviation is the Cramer-Rao bound at the estimate."""
        device = self.summary.get("device", "cpu")
        return in_chunks(self._posterior, run, device=device)

    def _posterior(self, run: Measurements, usable: Tensor) -> ParameterPosterior:
        model = self.signal_model
        problem = Problem.of(run, model, self.settings)
        solution = solve(problem, problem.start(), tolerance=3e-3, n_steps=40)
        state = solution.state
        values = model.to_physical(state.z)
        _, precision = profile(solution.linearisation, problem)
        std = self._cramer_rao(state.z, precision)
        overall, by_shell = fit_residuals(problem, state)
        nothing = torch.zeros_like(usable)
        status = status_of(usable, solution.converged, at_bound(model, values), nothing)
        derived = {}
        for parameter, value in model.derived(values).items():
            derived[parameter] = (value, torch.full_like(value, torch.nan))
        return ParameterPosterior(
            signal_model=model,
            mean=values,
            std=std,
            status=status,
            s0=torch.exp(state.log_s0),
            residual=overall,
            shell_residual=by_shell,
            orientation=state.orientation,
            derived=derived,
        )

    def _cramer_rao(self, z: Tensor, precision: Tensor) -> Tensor:
        """Give the bound on the sd (n_voxels, n_parameters), at most that of not knowing."""
        identity = torch.eye(z.shape[1]).to(z)
        variance = invert(precision + 1e-9 * identity)[0].diagonal(dim1=1, dim2=2)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.signal_model.to_physical(leaf).sum(), leaf)
        ranges = [parameter.upper - parameter.lower for parameter in self.signal_model.parameters]
        uniform = torch.tensor(ranges).to(z) / 12**0.5
        return torch.minimum(slope.abs() * variance.clamp(min=0).sqrt(), uniform)

    def state(self) -> dict[str, Tensor]:
        """Give nothing: there are no weights."""
        return {}

    @classmethod
    def from_state(
        cls,
        signal_model: SignalModel,
        settings: ModelSettings,
        state: Mapping[str, Tensor],
        *,
        history: tuple[float, ...],
        summary: Mapping[str, Any],
    ) -> LSQFit:
        """Rebuild from settings alone."""
        return cls(signal_model, settings, history, summary)


class LSQ(Estimator):
    """The baseline everybody trusts: each voxel by itself, no prior."""

    name = "lsq"
    description = "Voxelwise maximum likelihood (Rician) or least squares (Gaussian)"

    def fit(self, *runs: Measurements) -> LSQFit:
        """Check that the runs support the model."""
        for run in runs:
            self.check(run)
        return LSQFit(self.signal_model, self.settings, summary={"device": str(self.device)})
