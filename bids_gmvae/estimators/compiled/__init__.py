"""The solver compiled for the CPU, for signal models that offer their equation compiled.

`bids_gmvae.estimators.solver` and `residuals` call it where it applies; it does the same in the
same order, one voxel at a time. Import it late: the first import compiles, later ones read what
was compiled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bids_gmvae.estimators.compiled.explain import explain
from bids_gmvae.estimators.compiled.maximise import maximise
from bids_gmvae.estimators.compiled.voxel import (
    AVERAGED_RICIAN,
    GAUSSIAN,
    RICIAN,
    Design,
    Scratch,
)
from bids_gmvae.estimators.problem import Problem, State


def maximise_voxels(
    problem: Problem,
    start: State,
    mean: Tensor,
    precision: Tensor,
    *,
    tolerance: float,
    n_steps: int,
) -> tuple[State, tuple[Tensor, Tensor, Tensor], Tensor]:
    """Run `maximise` on tensors.

    Returns
    -------
    state : State
    linearisation : tuple of Tensor
        Log-likelihood, gradient and information, as in `Linearisation`.
    converged : Tensor of bool of shape (n_voxels,)
    """
    design, scratch = _prepare(problem)
    n_voxels, n_tangent = len(problem), len(scratch.rows)
    positions = _positions(start)
    log_likelihood = positions.new_empty(n_voxels)
    gradient = positions.new_empty(n_voxels, n_tangent)
    information = positions.new_empty(n_voxels, n_tangent, n_tangent)
    converged = torch.zeros(n_voxels, dtype=torch.bool)
    ends = torch.stack(problem.signal_model.latent_range(positions))
    maximise(
        problem.signal_model.compiled(), design, _array(problem.data), _array(problem.sigma),
        _array(mean), _array(precision), ends.numpy(), tolerance, n_steps, scratch,
        positions.numpy(), log_likelihood.numpy(), gradient.numpy(), information.numpy(),
        converged.numpy(),
    )  # fmt: skip
    log_likelihood = log_likelihood + _constant(problem)
    return _state(positions, problem), (log_likelihood, gradient, information), converged


def explain_voxels(
    problem: Problem, state: State, precision: Tensor, shell: Tensor
) -> tuple[Tensor, Tensor]:
    """Run `explain` on tensors; gives squares and freedom, (n_voxels, n_shells) each."""
    design, scratch = _prepare(problem)
    squared = problem.data.new_empty(len(problem), len(problem.shells))
    freedom = torch.empty_like(squared)
    explain(
        problem.signal_model.compiled(), design, _array(problem.data), _array(problem.sigma),
        _array(precision), shell.numpy(), scratch, _positions(state).numpy(),
        squared.numpy(), freedom.numpy(),
    )  # fmt: skip
    return squared, freedom


def _prepare(problem: Problem) -> tuple[Design, Scratch]:
    model, n_data = problem.signal_model, problem.data.shape[1]
    like = problem.data
    settings = [problem.acquisition[name] for name in model.requires if name != "bvecs"]
    bvecs = problem.acquisition.bvecs.T if model.directional else like.new_empty(3, 0)
    noise = GAUSSIAN
    if problem.noise_model == "rician":
        noise = AVERAGED_RICIAN if problem.averaged else RICIAN
    design = Design(
        noise,
        _array(torch.stack(settings).to(like)),
        _array(bvecs.to(like)),
        _array(problem.counts),
        torch.tensor([parameter.bijection for parameter in model.parameters]).to(like).numpy(),
    )
    n_tangent = len(problem.nuisance) + len(problem.latents)
    shapes = ((n_tangent, n_data), (5, n_data), (5 + 2 * n_tangent, n_tangent + 1))
    scratch = Scratch(*(like.new_empty(shape).numpy() for shape in shapes))
    return design, scratch


def _constant(problem: Problem) -> Tensor:
    """Give the part of the log-likelihood that depends on the data alone, (n_voxels,)."""
    n, sigma = problem.data.shape[1], problem.sigma
    if problem.averaged:
        constant = torch.log(problem.counts).sum() / 2 - n * torch.log(sigma)
        return constant * (problem.noise_model == "gaussian")
    if problem.noise_model == "gaussian":
        return -n * torch.log((2 * torch.pi) ** 0.5 * sigma)
    tiny = torch.finfo(sigma.dtype).tiny
    return torch.log(problem.data.clamp(min=tiny)).sum(dim=1) - 2 * n * torch.log(sigma)


def _array(tensor: Tensor) -> Any:
    return tensor.contiguous().numpy()


def _positions(state: State) -> Tensor:
    columns = [state.log_s0[:, None], state.z]
    if state.orientation is not None:
        columns.append(state.orientation)
    return torch.cat(columns, dim=1)


def _state(positions: Tensor, problem: Problem) -> State:
    n = 1 + problem.n_parameters
    orientation = positions[:, n:].contiguous() if problem.signal_model.directional else None
    return State(positions[:, 0].contiguous(), positions[:, 1:n].contiguous(), orientation)
