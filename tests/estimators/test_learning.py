"""Learning the prior: what protects it from its own haste."""

from dataclasses import replace

import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator, learning
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.inference import expect
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_population


def learn_in_test(**settings):
    model, scheme = get_signal_model("msdki"), get_scheme("short")
    generator = torch.Generator().manual_seed(5)
    values, _ = sample_population("msdki", 500, generator)
    signals = simulate_signals(model, scheme, values, sigma=0.05, generator=generator)
    run = Measurements(signals, torch.full((500,), 0.05, dtype=torch.float64), scheme)
    return get_estimator("gmvae")(model, ModelSettings(**settings)).fit(run), run


def test_steps_that_lead_too_far_are_undone(monkeypatch):
    """Several steps at a time are made to ruin the prior; single ones are left alone."""
    step = learning.learn

    def hasty(prior, potential, **options):
        learnt, history = step(prior, potential, **options)
        if "tolerance" in options and options["n_steps"] > 1:  # the start has no tolerance
            learnt = replace(learnt, means=learnt.means + 2.0)
        return learnt, history

    monkeypatch.setattr(learning, "learn", hasty)
    fit, _ = learn_in_test(n_components=3)
    gains = torch.tensor(fit.history).diff()
    assert len(gains) >= 2
    assert (gains > -learning.SLACK).all()


def test_the_prior_of_highest_evidence_is_kept(monkeypatch):
    """Every round is made to ruin the prior a little, by less than is undone."""
    step = learning.learn

    def careless(prior, potential, **options):
        learnt, history = step(prior, potential, **options)
        if "tolerance" in options:  # the start has none
            learnt = replace(prior, means=prior.means + 0.02)
        return learnt, history

    monkeypatch.setattr(learning, "learn", careless)
    fit, run = learn_in_test(n_components=3)
    problem = Problem.of(run, fit.signal_model, fit.settings)
    evidence = expect(problem, fit.recognition, fit.prior).log_evidence / len(problem)
    assert fit.history[-1] < max(fit.history) - 0.005
    torch.testing.assert_close(float(evidence), max(fit.history), atol=2e-3, rtol=0)
