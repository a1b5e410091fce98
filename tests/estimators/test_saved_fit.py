"""Fits as files, and which acquisitions they may be applied to."""

from dataclasses import replace

import pytest
import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator, load_fit
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.saved_fit import SavedFit
from bids_gmvae.exceptions import AcquisitionError, InputError

QUICK = ModelSettings(n_epochs=1, latent_size=4, n_components=2)


def test_a_fit_remembers_what_it_was_learnt_from(simulate, tmp_path):
    simulated = simulate("msdki", 50, snr=50)
    get_estimator("gmvae")(simulated.signal_model, QUICK).fit(simulated.run).save(tmp_path / "f")
    loaded = load_fit(tmp_path / "f")
    for name, column in simulated.run.acquisition.columns.items():
        torch.testing.assert_close(loaded.acquisitions[0][name], column, rtol=0, atol=0)


@pytest.mark.parametrize("change", ["state", "header", "acquisitions"])
def test_whatever_is_changed_in_the_file_is_noticed(simulate, tmp_path, change):
    simulated = simulate("msdki", 50, snr=50)
    path = tmp_path / "fit.pt"
    get_estimator("mlp")(simulated.signal_model, QUICK).fit(simulated.run).save(path)
    content = torch.load(path, weights_only=True)
    if change == "state":
        content["state"]["network.encoder.scale"] *= 1.0000002
    elif change == "header":
        content["header"] = content["header"].replace('"random_seed": 0', '"random_seed": 1')
    else:
        content["acquisitions"][0]["bvals"][-1] += 1
    torch.save(content, path)
    with pytest.raises(InputError, match=r"fit.pt was changed after it was written"):
        load_fit(path)


def test_latents_that_mean_something_else_today_are_refused(simulate, tmp_path):
    simulated = simulate("msdki", 50, snr=50)
    path = tmp_path / "fit.pt"
    get_estimator("lsq")(simulated.signal_model, QUICK).fit(simulated.run).save(path)
    saved = SavedFit.read(path)
    latents = [{**item, "Upper": 2 * item["Upper"]} for item in saved.header["latents"]]
    replace(saved, header={**saved.header, "latents": latents}).write(path)
    with pytest.raises(InputError, match=r"msdki has other parameters now"):
        load_fit(path)


def other_shells(run):
    """Leave the lowest shell out."""
    keep = run.acquisition.bvals != 1000
    return Measurements(run.signals[:, keep], run.sigma, run.acquisition.select(keep))


def test_a_learnt_prior_serves_other_shells_but_is_not_of_them(simulate):
    simulated = simulate("msdki", 400, snr=50)
    fit = get_estimator("gmvae")(simulated.signal_model, QUICK).fit(simulated.run)
    run = other_shells(simulated.run)
    assert fit.learnt_with(simulated.run.acquisition)
    assert not fit.learnt_with(run.acquisition)
    fit.require_suitable(run.acquisition)
    kurtosis = fit.posterior(run).mean[simulated.tissue, 1].double()
    error = (kurtosis - simulated.values[simulated.tissue, 1]).abs().median()
    assert error < 0.1


def test_a_recognition_network_serves_its_own_shells_only(simulate):
    simulated = simulate("msdki", 50, snr=50)
    settings = replace(QUICK, recognition="network")
    fit = get_estimator("gmvae")(simulated.signal_model, settings).fit(simulated.run)
    fit.require_suitable(simulated.run.acquisition)
    with pytest.raises(AcquisitionError, match=r"are 2 x b0, 10 x 1000, .* but 2 x b0, 10 x 2000"):
        fit.require_suitable(other_shells(simulated.run).acquisition)


def test_least_squares_learn_nothing_and_serve_all(simulate):
    simulated = simulate("msdki", 50, snr=50)
    fit = get_estimator("lsq")(simulated.signal_model, QUICK).fit(simulated.run)
    fit.require_suitable(other_shells(simulated.run).acquisition)
    assert fit.learnt_with(other_shells(simulated.run).acquisition)
