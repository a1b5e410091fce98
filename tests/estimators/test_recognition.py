"""Recognition: what a potential may claim."""

import pytest
import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.recognition import get_recognition
from bids_gmvae.estimators.recognition.base import REACH
from bids_gmvae.exceptions import UnknownNameError
from bids_gmvae.priors import GaussianMixturePrior
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_orientations, sample_population


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


def test_the_tilt_is_how_far_estimated_fibres_scatter():
    model, scheme = get_signal_model("ball_stick"), get_scheme("multishell")
    generator = torch.Generator().manual_seed(7)
    values = torch.tensor([[0.5, 1.9e-3, 0.8e-3]], dtype=torch.float64).expand(1000, -1)
    fibres = sample_orientations(1000, generator)
    signals = simulate_signals(
        model, scheme, values, sigma=1 / 20, generator=generator, orientation=fibres
    )
    run = Measurements(signals, torch.full((1000,), 1 / 20, dtype=torch.float64), scheme)
    recognised = get_recognition("newton").first(Problem.of(run, model, ModelSettings()))
    cosine = (recognised.state.orientation * fibres).sum(dim=1).abs().clamp(max=1)
    # There are two ways to tilt, much alike under evenly spread gradients.
    scatter = (torch.acos(cosine) ** 2).mean().sqrt() / 2**0.5
    assert (recognised.tilt**2).mean().sqrt() == pytest.approx(float(scatter), rel=0.05)


def test_an_unknown_recognition_is_named():
    with pytest.raises(UnknownNameError, match=r"recognition 'newtons'.*Did you mean 'newton'"):
        get_recognition("newtons")


def test_a_second_mode_is_found_and_left_to_the_component_that_it_suits():
    """A slow stick in fast water looks like a fast stick in slow water; both are tissue here."""
    model, scheme = get_signal_model("ball_stick"), get_scheme("twoshell")
    tissues = torch.tensor([[0.34, 0.5e-3, 1.0e-3], [0.15, 2.6e-3, 0.65e-3]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    values = tissues[:1].expand(1000, -1)
    fibres = sample_orientations(1000, generator)
    signals = simulate_signals(
        model, scheme, values, sigma=1 / 18, generator=generator, orientation=fibres
    )
    run = Measurements(signals, torch.full((1000,), 1 / 18, dtype=torch.float64), scheme)
    problem = Problem.of(run, model, ModelSettings())
    centres = model.to_real(tissues)
    wide = torch.full((3,), 4.0, dtype=torch.float64)
    prior = GaussianMixturePrior.around(centres, spread=0.4, lower=-wide, upper=wide)
    newton = get_recognition("newton")
    recognised = newton.first(problem)
    recognised = newton.refine(problem, recognised, prior.posterior(recognised.potential), prior)
    potential, found = newton.with_rival(problem, recognised, prior)
    before, after = prior.posterior(recognised.potential), prior.posterior(potential)
    gain = after.log_evidence - before.log_evidence
    assert (gain >= -1e-9).all()
    won = gain > 0.5
    assert won.sum() >= 5, "the first search finds both modes by itself: this tests nothing"
    error = [(item.state.z - centres[0])[won].norm(dim=1).mean() for item in (recognised, found)]
    assert error[1] < 0.7 * error[0]
