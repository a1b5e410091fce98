"""Recognition: what a potential may claim."""

import pytest
import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.recognition import get_recognition
from bids_gmvae.estimators.recognition.base import REACH
from bids_gmvae.exceptions import UnknownNameError
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_population


def test_no_potential_claims_a_mode_far_from_where_the_likelihood_was_looked_at():
    """Perfusion is hardly determined; slopes without curvature once earned 1e5 nats there."""
    generator = torch.Generator().manual_seed(1)
    model, scheme = get_signal_model("ivim"), get_scheme("ivim")
    values, _ = sample_population("ivim", 2000, generator)
    # Signal that no perfusion explains drives the latents to their walls.
    values[:50] = torch.tensor([0.69, 0.29, 3.9e-3], dtype=torch.float64)
    signals = simulate_signals(model, scheme, values, sigma=0.1, generator=generator)
    run = Measurements(signals, torch.full((2000,), 0.1, dtype=torch.float64), scheme)
    problem = Problem.of(run, model, ModelSettings())
    recognised = get_recognition("newton").first(problem)
    precision, shift = recognised.potential.precision, recognised.potential.shift
    values, vectors = torch.linalg.eigh(precision)
    slope = shift - torch.einsum("vpq,vq->vp", precision, recognised.state.z)
    along = torch.einsum("vpi,vp->vi", vectors, slope)
    assert (along.abs() <= REACH * values.clamp(min=0) + 1e-6).all()
    assert torch.isfinite(recognised.potential.constant).all()


def test_an_unknown_recognition_is_named():
    with pytest.raises(UnknownNameError, match=r"recognition 'newtons'.*Did you mean 'newton'"):
        get_recognition("newtons")
