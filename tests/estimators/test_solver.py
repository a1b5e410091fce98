"""The solver, against SciPy on the same voxels and against the curvature it reports."""

import numpy as np
import pytest
import torch
from scipy import optimize

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.solver import NormalPenalty, profile, solve
from bids_gmvae.signal_models import SignalModel, get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_orientations, sample_population


def simulated(model_name, scheme_name, *, snr, n, noise_model="rician"):
    generator = torch.Generator().manual_seed(7)
    model, scheme = get_signal_model(model_name), get_scheme(scheme_name)
    values, labels = sample_population(model_name, n, generator)
    orientation = sample_orientations(n, generator)
    signals = simulate_signals(
        model, scheme, values, orientation=orientation if model.directional else None,
        sigma=1 / snr, generator=generator,
    )  # fmt: skip
    run = Measurements(signals, torch.full((n,), 1 / snr, dtype=torch.float64), scheme)
    return model, run, values, labels, orientation


def test_least_squares_ends_where_scipy_ends():
    model, run, values, labels, _ = simulated("ball_stick", "multishell", snr=30, n=12)
    tissue = labels < 3
    settings = ModelSettings(noise_model="gaussian")
    posterior = get_estimator("lsq")(model, settings).fit(run).posterior(run)
    bvals, bvecs = run.acquisition.bvals.numpy(), run.acquisition.bvecs.numpy()
    for voxel in torch.where(tissue)[0].tolist():
        data = run.signals[voxel].numpy()

        def residual(p, data=data):
            direction = p[4:7] / np.linalg.norm(p[4:7])
            stick = np.exp(-bvals * p[2] * 1e-3 * (bvecs @ direction) ** 2)
            return p[0] * (p[1] * stick + (1 - p[1]) * np.exp(-bvals * p[3] * 1e-3)) - data

        truth = values[voxel].numpy() * [1, 1e3, 1e3]
        start = np.concatenate([[1.0], truth, posterior.orientation[voxel].numpy()])
        best = optimize.least_squares(residual, start, xtol=1e-12, ftol=1e-12).x
        np.testing.assert_allclose(
            posterior.mean[voxel].numpy() * [1, 1e3, 1e3], best[1:4], rtol=0.02, atol=2e-3
        )


def test_no_direction_in_parameter_space_improves_the_maximum_likelihood():
    model, run, _, _, _ = simulated("msdki", "multishell", snr=20, n=200)
    problem = Problem.of(run, model, ModelSettings())
    solution = solve(problem, problem.start(), tolerance=1e-6, n_steps=60)
    best = problem.log_likelihood(solution.state)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        step = 0.02 * torch.randn(len(problem), 3, dtype=torch.float64, generator=generator)
        assert (problem.log_likelihood(problem.move(solution.state, step)) < best + 1e-4).all()


def test_the_gradient_is_the_derivative_of_the_log_likelihood():
    for name, scheme in (("msdki", "short"), ("ball_stick", "multishell")):
        model, run, _, _, _ = simulated(name, scheme, snr=10, n=5)
        problem = Problem.of(run, model, ModelSettings())
        state = problem.start()
        linear = problem.linearise(state)
        for axis in range(linear.gradient.shape[1]):
            step = torch.zeros_like(linear.gradient)
            step[:, axis] = 1e-5
            difference = problem.log_likelihood(problem.move(state, step))
            difference = difference - problem.log_likelihood(problem.move(state, -step))
            torch.testing.assert_close(
                linear.gradient[:, axis], difference / 2e-5, rtol=2e-3, atol=1e-3
            )


def test_the_cramer_rao_deviation_is_the_scatter_over_noise_draws():
    generator = torch.Generator().manual_seed(3)
    model, scheme, n = get_signal_model("msdki"), get_scheme("multishell"), 3000
    values = torch.tensor([[0.9e-3, 1.0]], dtype=torch.float64).expand(n, -1)
    signals = simulate_signals(model, scheme, values, sigma=0.04, generator=generator)
    run = Measurements(signals, torch.full((n,), 0.04, dtype=torch.float64), scheme)
    posterior = get_estimator("lsq")(model).fit(run).posterior(run)
    torch.testing.assert_close(posterior.std.mean(0), posterior.mean.std(0), rtol=0.05, atol=0)
    assert posterior.residual.square().mean().item() == pytest.approx(1, abs=0.1)


def test_a_stronger_prior_pulls_the_mode_closer():
    model, run, _, _, _ = simulated("msdki", "short", snr=15, n=50)
    problem = Problem.of(run, model, ModelSettings())
    start = problem.start()
    distances = []
    for precision in (1.0, 100.0, 1e6):
        identity = torch.eye(2, dtype=torch.float64).expand(50, -1, -1)
        penalty = NormalPenalty(torch.zeros(50, 2, dtype=torch.float64), precision * identity)
        distances.append(solve(problem, start, penalty=penalty).state.z.norm(dim=1).mean().item())
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-3


def test_profiled_information_never_exceeds_the_information_with_known_nuisances():
    model, run, _, _, _ = simulated("ball_stick", "multishell", snr=20, n=20)
    problem = Problem.of(run, model, ModelSettings())
    linear = problem.linearise(problem.start())
    _, precision = profile(linear, problem)
    latent = torch.tensor(problem.latents)
    known = linear.information[:, latent][:, :, latent]
    assert (torch.linalg.eigvalsh(known - precision) > -1e-6).all()
    assert (torch.linalg.eigvalsh(precision) > -1e-6).all()


def test_analytic_derivatives_equal_the_automatic_ones(monkeypatch):
    model, run, _, _, _ = simulated("ball_stick", "multishell", snr=20, n=20)
    problem = Problem.of(run, model, ModelSettings())
    state = solve(problem, problem.start(), n_steps=5).state
    signal, analytic = problem.jacobian(state)
    monkeypatch.setattr(type(model), "derivatives", SignalModel.derivatives)
    automatic_signal, automatic = problem.jacobian(state)
    torch.testing.assert_close(signal, automatic_signal)
    torch.testing.assert_close(analytic, automatic, rtol=1e-7, atol=1e-9)
