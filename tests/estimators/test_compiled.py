"""Compiled code, against the same in torch and against torch's special functions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.compiled.bessel import scaled_bessel
from bids_gmvae.estimators.problem import Problem, State
from bids_gmvae.estimators.residuals import fit_residuals
from bids_gmvae.estimators.solver import NormalPenalty, solve
from bids_gmvae.signal_models import SIGNAL_MODELS
from bids_gmvae.signal_models.compiled import exp

COMPILED = [name for name, model in SIGNAL_MODELS.items() if model().compiled() is not None]


@pytest.fixture
def interpreted(monkeypatch):
    """Compute in torch what is called."""

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(Problem, "is_compiled", False)
            return function(*args, **kwargs)

    return call


@pytest.fixture(params=COMPILED)
def simulated(request, simulate):
    population = "ball_stick" if request.param == "ball_stick_tied" else request.param
    data = simulate(population, 60, 20)
    return SIGNAL_MODELS[request.param](), data.run


@pytest.mark.parametrize("noise_model", ["gaussian", "rician"])
@pytest.mark.parametrize("precision", [None, 0.3, 30.0])
def test_both_solvers_end_in_the_same_place(simulated, interpreted, noise_model, precision):
    model, run = simulated
    problem = Problem.of(run, model, ModelSettings(noise_model=noise_model))
    start = problem.start()
    penalty = None
    if precision is not None:
        broad = NormalPenalty.standard(start.z)
        penalty = NormalPenalty(broad.mean + 0.4, precision * broad.precision)
    options = {"penalty": penalty, "tolerance": 1e-5, "n_steps": 60}
    compiled, slow = (
        solve(problem, start, **options),
        interpreted(solve, problem, start, **options),
    )
    assert torch.equal(compiled.converged, slow.converged)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(compiled.state.z, slow.state.z, **close)
    torch.testing.assert_close(compiled.state.log_s0, slow.state.log_s0, **close)
    if model.directional:
        torch.testing.assert_close(compiled.state.orientation, slow.state.orientation, **close)


@pytest.mark.parametrize("noise_model", ["gaussian", "rician"])
@pytest.mark.parametrize("place", [0.0, -100.0, 100.0])
def test_both_linearisations_agree_within_and_at_the_bounds(
    simulated, interpreted, noise_model, place
):
    model, run = simulated
    problem = Problem.of(run, model, ModelSettings(noise_model=noise_model))
    start = problem.start()
    lower, upper = model.latent_range(start.z)
    state = State(start.log_s0, (0 * start.z + place).clamp(lower, upper), start.orientation)
    compiled = solve(problem, state, n_steps=0).linearisation
    slow = interpreted(solve, problem, state, n_steps=0).linearisation
    for name in ("log_likelihood", "gradient", "information"):
        ours, theirs = getattr(compiled, name), getattr(slow, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7 * float(theirs.abs().max()))


@pytest.mark.parametrize("noise_model", ["gaussian", "rician"])
@pytest.mark.parametrize("weight", [None, 2.0])
def test_both_give_the_same_residuals(simulated, interpreted, noise_model, weight):
    model, run = simulated
    problem = Problem.of(run, model, ModelSettings(noise_model=noise_model))
    state = solve(problem, problem.start()).state
    prior = None if weight is None else weight * NormalPenalty.standard(state.z).precision
    compiled = fit_residuals(problem, state, prior)
    slow = interpreted(fit_residuals, problem, state, prior)
    for ours, theirs in zip(compiled, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_bessel_functions_are_those_of_torch():
    z = torch.cat([torch.zeros(1), torch.logspace(-6, 9, 4001)]).double()
    ours = torch.tensor([scaled_bessel(value) for value in z.tolist()], dtype=z.dtype)
    torch.testing.assert_close(ours[:, 0], torch.special.i0e(z), rtol=1e-9, atol=0)
    torch.testing.assert_close(ours[:, 1], torch.special.i1e(z), rtol=1e-9, atol=0)


def test_the_exponential_is_that_of_torch():
    x = torch.linspace(-40, 5, 1001).double()
    ours = torch.tensor([exp(value) for value in x.tolist()], dtype=x.dtype)
    torch.testing.assert_close(ours, torch.exp(x), rtol=2e-8, atol=1e-12)


def test_nothing_imports_numba_before_it_is_needed(run_python):
    run_python("import bids_gmvae.estimators, sys; assert 'numba' not in sys.modules")


def test_an_installation_that_cannot_be_written_compiles_without_a_cache(run_python):
    run_python(
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from bids_gmvae.signal_models.compiled import exp\n"
        "assert abs(exp(1.0) - 2.718281828) < 1e-8"
    )


@pytest.mark.slow  # compiles
def test_what_was_just_compiled_computes_the_same_bits_as_what_was_kept(run_python, tmp_path):
    code = (
        "import hashlib\n"
        "from bids_gmvae.estimators.problem import Problem\n"
        "from bids_gmvae.estimators.solver import solve\n"
        "from bids_gmvae.config import ModelSettings\n"
        "from tests.estimators.conftest import Simulated\n"
        "data = Simulated('ball_stick', 60, 20, n_directions=90)\n"
        "problem = Problem.of(data.run, data.signal_model, ModelSettings())\n"
        "found = solve(problem, problem.start()).linearisation\n"
        "print(hashlib.sha256(found.information.numpy().tobytes()).hexdigest())\n"
    )
    first, second = (run_python(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first == second


@pytest.fixture
def run_python():
    """Run code in a process of its own, and give what it prints."""

    def run(code, **environment):
        return subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **environment},
            timeout=120,
        ).stdout

    return run
