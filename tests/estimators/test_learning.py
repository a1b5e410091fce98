"""Learning the prior: what protects it from its own haste."""

from dataclasses import replace

import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator, learning
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_population


def test_steps_that_lead_too_far_are_undone(monkeypatch):
    """Several steps at a time are made to ruin the prior; single ones are left alone."""
    step = learning.learn

    def hasty(prior, potential, **options):
        learnt, history = step(prior, potential, **options)
        if 1 < options.get("n_steps", 1) < 15:  # the start takes 15
            learnt = replace(learnt, means=learnt.means + 2.0)
        return learnt, history

    monkeypatch.setattr(learning, "learn", hasty)
    model, scheme = get_signal_model("msdki"), get_scheme("short")
    generator = torch.Generator().manual_seed(5)
    values, _ = sample_population("msdki", 500, generator)
    signals = simulate_signals(model, scheme, values, sigma=0.05, generator=generator)
    run = Measurements(signals, torch.full((500,), 0.05, dtype=torch.float64), scheme)
    fit = get_estimator("gmvae")(model, ModelSettings(n_components=3)).fit(run)
    gains = torch.tensor(fit.history).diff()
    assert len(gains) >= 2
    assert (gains > -learning.SLACK).all()
