"""What every estimator must fulfil."""

from dataclasses import replace

import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import ESTIMATORS, load_fit
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.posterior import Status
from bids_gmvae.signal_models import get_signal_model

SETTINGS = ModelSettings(n_components=3, n_epochs=60, latent_size=16, kl_weight=1e-6)

#: Largest root mean square error in tissue from nearly noiseless data: diffusivity (mm^2/s) and
#: kurtosis; and largest median angle of a fibre, degrees. The networks see few voxels here.
EXACT = (5e-6, 0.01, 0.5)
APPROXIMATE = (5e-5, 0.1, 5.0)
TOLERANCES = {"lsq": EXACT, "gmvae": EXACT}


@pytest.fixture(scope="module")
def simulated(simulate):
    return simulate("msdki", 300, snr=1000)


@pytest.fixture(scope="module", params=ESTIMATORS)
def fitted(request, simulated):
    """Give the name of an estimator, its fit, and the posterior of the run it was fitted to."""
    estimator = ESTIMATORS[request.param](simulated.signal_model, SETTINGS)
    fit = estimator.fit(simulated.run)
    return request.param, fit, fit.posterior(simulated.run)


def assert_equal(first, second, *, voxels=slice(None), **tolerance):
    """Compare two posteriors tensor by tensor; ``voxels`` select from the first."""
    first, second = first.tensors(), second.tensors()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            tensor[voxels], second[name], equal_nan=True, msg=lambda m, n=name: f"{n}: {m}",
            **tolerance,
        )  # fmt: skip


def test_an_estimator_is_registered_under_its_own_name():
    for name, estimator in ESTIMATORS.items():
        assert estimator.name == name
        assert estimator.description


def test_a_nearly_noiseless_truth_is_recovered(fitted, simulated):
    name, _, posterior = fitted
    error = (posterior.mean - simulated.values)[simulated.tissue]
    limits = torch.tensor(TOLERANCES.get(name, APPROXIMATE)[:2], dtype=torch.float64)
    assert (error.square().mean(dim=0).sqrt() < limits).all()
    torch.testing.assert_close(
        posterior.s0, torch.full_like(posterior.s0, 400.0), rtol=0.02, atol=0
    )


def test_the_posterior_is_complete(fitted, simulated):
    _, _, posterior = fitted
    n_voxels, n_parameters = simulated.values.shape
    assert posterior.mean.shape == posterior.std.shape == (n_voxels, n_parameters)
    assert posterior.shell_residual.shape == (n_voxels, 4)
    assert torch.isin(posterior.status, torch.tensor([int(code) for code in Status])).all()
    assert posterior.mean.isfinite().all()
    assert posterior.residual.isfinite().all()
    assert ((posterior.std > 0) | posterior.std.isnan()).all()
    assert posterior.mean.device.type == "cpu"
    for parameter, values in zip(
        simulated.signal_model.parameters, posterior.mean.unbind(dim=1), strict=True
    ):
        assert (values >= parameter.lower).all()
        assert (values <= parameter.upper).all()


def test_responsibilities_are_probabilities(fitted, simulated):
    _, _, posterior = fitted
    if posterior.responsibilities is None:
        pytest.skip("no mixture")
    total = posterior.responsibilities.sum(dim=1)
    if posterior.unexpected is not None:
        total = total + posterior.unexpected
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-5, atol=1e-5)
    assert (posterior.responsibilities >= 0).all()


def test_the_posterior_keeps_the_order_of_rows(fitted, simulated):
    _, fit, whole = fitted
    order = torch.randperm(len(simulated.run), generator=torch.Generator().manual_seed(1))
    part = order[:150]
    assert_equal(
        whole, fit.posterior(simulated.run.select(part)), voxels=part, rtol=1e-3, atol=1e-4
    )


def test_the_same_seed_gives_the_same_posterior(fitted, simulated):
    name, fit, posterior = fitted
    torch.manual_seed(123)
    again = ESTIMATORS[name](simulated.signal_model, SETTINGS).fit(simulated.run)
    assert again.history == fit.history
    assert_equal(again.posterior(simulated.run), posterior, rtol=0, atol=0)


def test_another_seed_learns_in_another_way(fitted, simulated):
    name, fit, _ = fitted
    if not fit.history:
        pytest.skip("nothing is learnt")
    settings = replace(SETTINGS, random_seed=1, n_epochs=1)
    other = ESTIMATORS[name](simulated.signal_model, settings).fit(simulated.run)
    assert other.history[0] != fit.history[0]


def test_the_global_random_state_is_left_alone(fitted, simulated):
    name, _, _ = fitted
    before = torch.get_rng_state()
    few = simulated.run.select(slice(0, 100))
    fit = ESTIMATORS[name](simulated.signal_model, SETTINGS).fit(few)
    fit.posterior(few)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_saved_fit_gives_the_same_posterior(fitted, simulated, tmp_path):
    name, fit, posterior = fitted
    fit.save(tmp_path / "fit.pt")
    loaded = load_fit(tmp_path / "fit.pt")
    assert type(loaded) is type(fit)
    assert loaded.estimator == name
    assert loaded.settings == fit.settings
    assert loaded.history == fit.history
    assert dict(loaded.summary) == dict(fit.summary)
    assert_equal(loaded.posterior(simulated.run), posterior, rtol=0, atol=0)


def test_draws_follow_the_posterior_voxel_by_voxel(fitted, simulated):
    name, fit, _ = fitted
    if not ESTIMATORS[name].draws:
        pytest.skip("no draws")
    asking = replace(fit, settings=replace(fit.settings, posterior_samples=400))
    posterior = asking.posterior(simulated.run)
    samples = posterior.samples.double()
    assert samples.shape == (*posterior.mean.shape, 400)
    spread = posterior.std.clamp(min=1e-12)
    z = (samples - posterior.mean[..., None]) / spread[..., None]
    assert z.mean(dim=2).abs().max() < 0.3
    torch.testing.assert_close(z.std(dim=2).median().item(), 1.0, rtol=0.1, atol=0)
    neighbours = (z[:-1] * z[1:]).mean(dim=2)
    assert neighbours.mean().abs() < 0.05
    assert torch.equal(asking.posterior(simulated.run).samples, posterior.samples)


def with_broken_voxels(run):
    """Break the first four voxels: not finite in one volume, in all, infinite, constant."""
    signals = run.signals.clone()
    signals[0, 3] = torch.nan
    signals[1] = torch.nan
    signals[2, 0] = torch.inf
    signals[3] = 7.0
    return Measurements(signals, run.sigma, run.acquisition)


def test_broken_voxels_are_reported_and_do_not_disturb_others(fitted, simulated):
    _, fit, whole = fitted
    broken = fit.posterior(with_broken_voxels(simulated.run))
    assert (broken.status[:4] == Status.NOT_FINITE).all()
    assert not (broken.status[4:] == Status.NOT_FINITE).any()
    for name, tensor in broken.tensors().items():
        if name != "status":
            assert tensor[:4].isnan().all(), name
    rest = slice(4, None)
    torch.testing.assert_close(broken.mean[rest], whole.mean[rest], rtol=1e-3, atol=1e-4)


def test_broken_voxels_do_not_spread_through_the_fit(fitted, simulated):
    name, _, _ = fitted
    few = with_broken_voxels(simulated.run.select(slice(0, 100)))
    posterior = ESTIMATORS[name](simulated.signal_model, SETTINGS).fit(few).posterior(few)
    assert posterior.mean[4:].isfinite().all()
    assert posterior.s0[4:].isfinite().all()


def test_a_saved_fit_does_not_depend_on_folders(fitted, tmp_path):
    _, fit, _ = fitted
    paths = []
    for folder in (tmp_path / "a", tmp_path / "größer"):
        folder.mkdir()
        settings = replace(
            fit.settings, mask=f"{folder}/m.nii", noise_map=f"{folder}/n.nii", reuse_fit=folder
        )
        paths.append(folder / "fit.pt")
        replace(fit, settings=settings).save(paths[-1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert load_fit(paths[0]).settings.noise_map == "n.nii"


def test_several_runs_are_fitted_together(fitted, simulated):
    name, _, _ = fitted
    halves = simulated.run.select(slice(0, 60)), simulated.run.select(slice(60, 120))
    fit = ESTIMATORS[name](simulated.signal_model, SETTINGS).fit(*halves)
    assert len(fit.posterior(halves[1]).mean) == 60


def test_progress_is_told_until_the_last_step(fitted, simulated):
    name, _, _ = fitted
    steps = []
    estimator = ESTIMATORS[name](
        simulated.signal_model,
        SETTINGS,
        progress=lambda step, n_steps, objective: steps.append((step, n_steps)),
    )
    fit = estimator.fit(simulated.run.select(slice(0, 100)))
    assert bool(steps) == bool(fit.history)
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    assert all(step <= n_steps for step, n_steps in steps)


def test_an_acquisition_that_does_not_support_the_model_is_refused(fitted, simulated):
    name, _, _ = fitted
    keep = simulated.run.acquisition.bvals < 1500
    run = Measurements(
        simulated.run.signals[:, keep], simulated.run.sigma, simulated.run.acquisition.select(keep)
    )
    with pytest.raises(AcquisitionError, match="two shells"):
        ESTIMATORS[name](simulated.signal_model, SETTINGS).fit(run)


def test_fibres_are_found(fitted, simulate):
    name, _, _ = fitted
    simulated = simulate("ball_stick", 300, snr=200, n_directions=20)
    settings = ModelSettings(n_components=3, n_epochs=20, latent_size=16, kl_weight=1e-6)
    fit = ESTIMATORS[name](simulated.signal_model, settings).fit(simulated.run)
    posterior = fit.posterior(simulated.run)
    white = simulated.labels == 1
    torch.testing.assert_close(
        posterior.orientation.norm(dim=1), torch.ones(300, dtype=torch.float64), rtol=1e-5, atol=0
    )
    *_, limit = TOLERANCES.get(name, APPROXIMATE)
    cosine = (posterior.orientation * simulated.orientation).sum(dim=1).abs()[white]
    assert torch.rad2deg(torch.acos(cosine.clamp(max=1))).median() < limit


def test_echo_times_are_modelled(fitted):
    name, _, _ = fitted
    model = get_signal_model("t2_adc")
    bvals = torch.tensor([0.0, 0, 500, 1000, 0, 500, 1000, 0, 500, 1000], dtype=torch.float64)
    echo_times = torch.tensor([6, 6, 6, 6, 9, 9, 9, 14, 14, 14], dtype=torch.float64) / 100
    acquisition = Acquisition(bvals=bvals, echo_times=echo_times)
    generator = torch.Generator().manual_seed(0)
    z = 0.5 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
    values = model.to_physical(z)
    noise = torch.randn(200, 10, generator=generator, dtype=torch.float64)
    run = Measurements(
        100 * model(values, acquisition) + 0.1 * noise, torch.full((200,), 0.1), acquisition
    )
    posterior = ESTIMATORS[name](model, SETTINGS).fit(run).posterior(run)
    relative = ((posterior.mean - values) / values).abs().median(dim=0).values
    assert (relative < 0.1).all()
    torch.testing.assert_close(
        posterior.s0.median(), torch.tensor(100.0).double(), rtol=0.01, atol=0
    )
