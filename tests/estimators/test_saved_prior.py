"""A prior as a file: the same numbers, or a sentence that says why not."""

import json

import pytest
import torch

from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator, load_fit
from bids_gmvae.estimators.saved_prior import (
    _checksum,
    identity,
    prior_content,
    prior_for,
    read_prior,
)
from bids_gmvae.exceptions import ExitCode, InputError
from bids_gmvae.signal_models import get_signal_model

SETTINGS = ModelSettings(n_components=3)


@pytest.fixture(scope="module")
def simulated(simulate):
    return simulate("msdki", 200, snr=30)


@pytest.fixture(scope="module")
def fit(simulated):
    return get_estimator("gmvae")(simulated.signal_model, SETTINGS).fit(simulated.run)


@pytest.fixture
def content(fit):
    return prior_content(fit.prior, fit.signal_model, Voxels=200)


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def signed(content):
    """Give a file whose checksum is right."""
    content = {key: value for key, value in content.items() if key != "Checksum"}
    return {**content, "Checksum": _checksum(content)}


def test_a_given_prior_gives_the_maps_of_the_fit_that_learnt_it(simulated, fit, content, tmp_path):
    path = write(tmp_path / "prior.json", content)
    settings = ModelSettings(prior_from=path)
    again = get_estimator("gmvae")(simulated.signal_model, settings).fit(simulated.run)
    for name, tensor in vars(fit.prior).items():
        assert torch.equal(getattr(again.prior, name), tensor)
    expected = fit.posterior(simulated.run)
    assert torch.equal(again.posterior(simulated.run).mean, expected.mean)
    assert again.history == ()
    assert again.settings.n_components == 3
    assert again.summary["prior"] == identity(path)
    assert again.summary["n_training_voxels"] == 200
    again.save(tmp_path / "fit.pt")
    reloaded = load_fit(tmp_path / "fit.pt")
    assert torch.equal(reloaded.posterior(simulated.run).mean, expected.mean)
    assert str(reloaded.settings.prior_from) == "prior.json"


def test_the_file_can_be_read_by_people(content):
    assert {"Weight", "diffusivity", "kurtosis"} == set(content["Components"][0])
    assert len(content["Components"]) == 3


def changed(content, *keys, value):
    """Change one value deep within."""
    content = json.loads(json.dumps(content))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return content


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("Prior", "weights", 0), -0.1, "no mixture of normals"),
        (("Prior", "weights"), [0.5, 0.5], "no mixture of normals"),
        (("Prior", "means", 0, 0), float("nan"), "no mixture of normals"),
        (("Prior", "covariances", 0, 0, 0), -1.0, "no mixture of normals"),
        (("Prior", "covariances", 0, 0, 1), 5.0, "no mixture of normals"),
        (("Prior", "means", 0), [0.0], "holds no mixture"),
        (("Prior", "weights"), "much", "holds no mixture"),
        (("Prior", "weights"), 1.0, "no mixture of normals"),
        (("Prior", "means", 0, 0), 10**400, "holds no mixture"),
        (("SignalModel",), ["msdki"], "is not defined as in this version"),
        (("Latents", 0, "Center"), 1.0, "is not defined as in this version"),
        (("SignalModel",), "nosuch", "is not defined as in this version"),
        (("Format",), 99, "has the format 99, this version reads 1"),
    ],
)
def test_a_file_that_is_no_prior_is_refused(content, tmp_path, keys, value, message):
    path = write(tmp_path / "prior.json", signed(changed(content, *keys, value=value)))
    with pytest.raises(InputError, match=message) as caught:
        read_prior(path)
    assert str(path) in caught.value.message
    assert caught.value.exit_code == ExitCode.INVALID_INPUT


def test_any_change_is_noticed(content, tmp_path):
    for keys in (("Voxels",), ("Prior", "weights", 0), ("Components", 0, "Weight")):
        path = write(tmp_path / "prior.json", changed(content, *keys, value=0.25))
        with pytest.raises(InputError, match="changed after it was written"):
            read_prior(path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "{}", "\x00", "[" * 10**5])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match="is no prior"):
        read_prior(path)
    with pytest.raises(InputError, match="does not exist"):
        read_prior(tmp_path / "nowhere.json")


def test_a_prior_of_another_model_is_refused(content, tmp_path):
    path = write(tmp_path / "prior.json", content)
    with pytest.raises(InputError, match=r"for the signal model msdki, but .* with ivim"):
        prior_for(path, get_signal_model("ivim"))
