"""What the self-supervised networks share."""

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import amortised
from bids_gmvae.estimators.amortised import relative_signals, shared_noise
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.mlp import MLP
from bids_gmvae.estimators.vae_gmm import VAEGMM
from bids_gmvae.estimators.vae_unig import VAEUniG
from bids_gmvae.exceptions import AcquisitionError, GMVAEError, InputError
from bids_gmvae.posterior import Status
from bids_gmvae.signal_models import get_signal_model

QUICK = ModelSettings(n_epochs=2, latent_size=8)


@pytest.mark.parametrize("n_noise", [1, 4, 40])
def test_shared_noise_has_exactly_zero_mean_and_unit_covariance(n_noise):
    noise = shared_noise(n_noise, ModelSettings())[:, 0]
    torch.testing.assert_close(noise.mean(dim=0), torch.zeros(n_noise).double())
    covariance = noise.T @ noise / len(noise)
    torch.testing.assert_close(covariance, torch.eye(n_noise).double())


def test_more_posterior_samples_are_drawn_if_asked_for():
    assert len(shared_noise(3, ModelSettings(posterior_samples=200))) == 200


def test_axes_of_fibres_lie_in_one_half_space_near_the_truth(simulate):
    simulated = simulate("ball_stick", 100, snr=1000, n_directions=40)
    index = amortised._shells(simulated.run.acquisition, QUICK).index
    axes = relative_signals(simulated.run, simulated.signal_model, index, QUICK).axes
    assert (axes[:, 2] >= 0).all()
    white = simulated.labels == 1
    cosine = (axes.double() * simulated.orientation).sum(dim=1).abs()[white]
    assert torch.rad2deg(torch.acos(cosine.clamp(max=1))).median() < 5


def test_the_unweighted_signal_is_extrapolated_if_no_measurement_is_unweighted():
    model = get_signal_model("msdki")
    bvals = torch.tensor([300.0, 300, 1000, 1000, 2000, 2000], dtype=torch.float64)
    acquisition = Acquisition(bvals=bvals)
    generator = torch.Generator().manual_seed(0)
    z = 0.3 * torch.randn(300, 2, generator=generator, dtype=torch.float64)
    signals = 80 * model(model.to_physical(z), acquisition)
    run = Measurements(signals, torch.ones(300, dtype=torch.float64), acquisition)
    posterior = MLP(model, ModelSettings(n_epochs=40)).fit(run).posterior(run)
    assert float(posterior.s0.median()) == pytest.approx(80, rel=0.03)


def test_residuals_are_about_1_where_only_noise_is_left(simulate):
    simulated = simulate("ball_stick", 600, snr=20, n_directions=20)
    fit = MLP(simulated.signal_model, ModelSettings(n_epochs=30)).fit(simulated.run)
    posterior = fit.posterior(simulated.run)
    assert 0.9 < posterior.residual[simulated.tissue].median() < 1.3
    assert posterior.shell_residual.shape == (600, 4)


def test_a_run_with_other_measurements_is_refused_with_both_schemes(simulate):
    simulated = simulate("msdki", 50, snr=50)
    fit = MLP(simulated.signal_model, QUICK).fit(simulated.run)
    keep = torch.arange(1, len(simulated.run.acquisition))
    run = Measurements(
        simulated.run.signals[:, keep], simulated.run.sigma, simulated.run.acquisition.select(keep)
    )
    with pytest.raises(AcquisitionError, match=r"2 x b0, 10 x 1000, .* were expected, 1 x b0"):
        fit.posterior(run)
    with pytest.raises(AcquisitionError, match="same measurements in the same order"):
        MLP(simulated.signal_model, QUICK).fit(simulated.run, run)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b, g: (1.1 * b, g), r"10 x 1000, .* were expected, .* 10 x 1100"),
        (lambda b, g: (b.flip(0), g.flip(0)), "in another order"),
        (lambda b, g: (b, torch.cat([g[:12].flip(0), g[12:]])), r"differ by \d+ degrees"),
    ],
)
def test_a_network_is_not_applied_to_what_it_was_not_trained_with(simulate, change, says):
    simulated = simulate("ball_stick", 50, snr=50)
    fit = MLP(simulated.signal_model, QUICK).fit(simulated.run)
    own = simulated.run.acquisition
    bvals, bvecs = change(own.bvals, own.bvecs)
    with pytest.raises(AcquisitionError, match=says):
        fit.require_suitable(Acquisition(bvals=bvals, bvecs=bvecs))


def test_a_network_serves_the_same_scheme_of_a_turned_head_and_of_rounded_b_values(simulate):
    simulated = simulate("ball_stick", 50, snr=50)
    fit = MLP(simulated.signal_model, QUICK).fit(simulated.run)
    own = simulated.run.acquisition
    turned = own.bvecs @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, -1]]).double()
    fit.require_suitable(Acquisition(bvals=own.bvals * 1.01, bvecs=-turned))


def test_a_run_without_any_usable_voxel_is_refused(simulate):
    simulated = simulate("msdki", 5, snr=50)
    broken = torch.full_like(simulated.run.signals, torch.nan)
    run = Measurements(broken, simulated.run.sigma, simulated.run.acquisition)
    with pytest.raises(InputError, match="No voxel has a finite signal"):
        MLP(simulated.signal_model, QUICK).fit(run)


def test_a_voxel_without_b0_signal_is_not_fitted(simulate):
    simulated = simulate("msdki", 50, snr=50)
    signals = simulated.run.signals.clone()
    signals[7, simulated.run.acquisition.bvals == 0] = 0
    run = Measurements(signals, simulated.run.sigma, simulated.run.acquisition)
    posterior = MLP(simulated.signal_model, QUICK).fit(run).posterior(run)
    assert posterior.status[7] == Status.NOT_FINITE
    assert posterior.mean[7].isnan().all()
    assert posterior.mean[8:].isfinite().all()


def with_voxel(simulated, voxel, change):
    """Give the run with another signal in a voxel: change(signals, whether unweighted)."""
    signals = simulated.run.signals.clone()
    change(signals[voxel], simulated.run.acquisition.bvals == 0)
    return Measurements(signals, simulated.run.sigma, simulated.run.acquisition)


def set_b0(value):
    return lambda signals, unweighted: signals.masked_fill_(unweighted, value)


def set_one_volume(value):
    return lambda signals, unweighted: signals[-1:].fill_(value)


@pytest.mark.parametrize(
    "change", [set_b0(1e-3), set_b0(1e-20), set_b0(30.0), set_one_volume(1e6)]
)
@pytest.mark.parametrize("estimator", [MLP, VAEUniG, VAEGMM])
def test_a_voxel_that_would_decide_the_loss_takes_no_part_in_training(simulate, estimator, change):
    simulated = simulate("msdki", 50, snr=20)
    run = with_voxel(simulated, 7, change)
    fit = estimator(simulated.signal_model, QUICK).fit(run)
    others = estimator(simulated.signal_model, QUICK).fit(run.select(torch.arange(50) != 7))
    assert fit.history == others.history
    assert fit.summary["n_training_voxels"] == 49


@pytest.mark.parametrize("level", [1e-20, 1e-3, 30.0])
def test_a_voxel_whose_b0_is_noise_is_not_fitted(simulate, level):
    simulated = simulate("msdki", 50, snr=20)  # noise sd 20
    run = with_voxel(simulated, 7, set_b0(level))
    posterior = MLP(simulated.signal_model, QUICK).fit(run).posterior(run)
    assert posterior.status[7] == Status.NOT_FINITE
    assert posterior.mean[7].isnan().all()
    others = torch.arange(50) != 7
    assert posterior.mean[others].isfinite().all()
    assert (posterior.status[others] != Status.NOT_FINITE).all()


def test_one_voxel_does_not_ruin_the_maps_of_all_others(simulate):
    simulated = simulate("msdki_paper", 600, snr=50)
    run = with_voxel(simulated, 7, set_b0(1e-3))
    settings = ModelSettings(n_epochs=25)
    posterior = MLP(simulated.signal_model, settings).fit(run).posterior(run)
    tissue = simulated.tissue & (torch.arange(600) != 7)
    pair = torch.stack([posterior.mean[tissue, 0], simulated.values[tissue, 0]])
    assert torch.corrcoef(pair)[0, 1] > 0.95


def test_a_training_whose_loss_is_not_finite_is_an_error(simulate, monkeypatch):
    monkeypatch.setattr(amortised, "MIN_LEVEL", 0.0)
    monkeypatch.setattr(amortised, "MAX_RELATIVE_SIGNAL", torch.inf)
    simulated = simulate("msdki", 50, snr=20)
    run = with_voxel(simulated, 7, set_b0(1e-25))
    with pytest.raises(GMVAEError, match=r"The training failed: the loss is \w+ after epoch 1\."):
        MLP(simulated.signal_model, QUICK).fit(run)


def test_a_run_of_noise_alone_is_refused(simulate):
    simulated = simulate("msdki", 50, snr=20)
    run = Measurements(simulated.run.signals, 100 * simulated.run.sigma, simulated.run.acquisition)
    with pytest.raises(InputError, match="at least 2 times the noise"):
        MLP(simulated.signal_model, QUICK).fit(run)


def test_training_sees_a_bounded_number_of_voxels(simulate, monkeypatch):
    monkeypatch.setattr(amortised, "MAX_TRAINING_VOXELS", 60)
    simulated = simulate("msdki", 100, snr=50)
    halves = simulated.run.select(slice(0, 50)), simulated.run.select(slice(50, 100))
    fit = MLP(simulated.signal_model, QUICK).fit(*halves)
    assert fit.summary["n_training_voxels"] == 60


def test_chunks_of_voxels_leave_no_seams(simulate, monkeypatch):
    simulated = simulate("msdki", 100, snr=50)
    fit = VAEUniG(simulated.signal_model, QUICK).fit(simulated.run)
    whole = fit.posterior(simulated.run)
    monkeypatch.setattr(amortised, "VOXELS_PER_DRAW", 13)
    torch.testing.assert_close(fit.posterior(simulated.run).mean, whole.mean, rtol=1e-5, atol=1e-9)


def test_the_objective_is_named_in_the_summary(simulate):
    simulated = simulate("msdki", 50, snr=50)
    fit = MLP(simulated.signal_model, QUICK).fit(simulated.run)
    assert "negative loss" in fit.summary["objective"]
    assert len(fit.history) == 2


@pytest.mark.gpu
def test_a_gpu_gives_the_same_maps(simulate):
    simulated = simulate("msdki", 200, snr=50)
    settings = ModelSettings(n_epochs=20, latent_size=16, kl_weight=1e-5)
    first, second = (
        VAEUniG(simulated.signal_model, settings, device="cuda").fit(simulated.run)
        for _ in range(2)
    )
    maps = first.posterior(simulated.run)
    assert maps.mean.device.type == "cpu"
    torch.testing.assert_close(maps.mean, second.posterior(simulated.run).mean, equal_nan=True)
