"""Which signal model an acquisition gets."""

import pytest
import torch

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.exceptions import AcquisitionError, UnknownNameError
from bids_gmvae.signal_models import choose_signal_model, get_signal_model


def acquisition(*bvals, echo_times=None):
    bvecs = torch.randn(len(bvals), 3, generator=torch.Generator().manual_seed(0))
    bvecs = bvecs / bvecs.norm(dim=1, keepdim=True)
    columns = {"bvals": torch.tensor([float(b) for b in bvals]), "bvecs": bvecs}
    if echo_times:
        columns["echo_times"] = torch.tensor(echo_times)
    return Acquisition(**columns)


ONE_SHELL = acquisition(0, *[1000] * 12)
TWO_SHELLS = acquisition(0, *[1000] * 12, *[2000] * 12)


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        (ONE_SHELL, "ball_stick_tied"),
        (TWO_SHELLS, "msdki"),
        (acquisition(0, 10, 20, 50, 100, 400, 800), "ivim"),
        (acquisition(0, 0, 1000, 1000, echo_times=[0.06, 0.09, 0.06, 0.09]), "t2_adc"),
    ],
)
def test_auto_chooses_what_the_acquisition_supports(scheme, name):
    model, reason = choose_signal_model("auto", scheme)
    assert model.name == name
    assert reason.startswith("chosen for ")


def test_a_model_that_is_asked_for_is_given():
    model, reason = choose_signal_model("ball_stick", TWO_SHELLS)
    assert (model.name, reason) == ("ball_stick", "as requested")


def test_ball_and_stick_on_one_shell_is_tied_and_says_so():
    model, reason = choose_signal_model("ball_stick", ONE_SHELL)
    assert model.name == "ball_stick_tied"
    assert "share one diffusivity" in reason


def test_a_model_that_the_acquisition_does_not_support_is_refused():
    with pytest.raises(AcquisitionError, match="several echo times"):
        choose_signal_model("t2_adc", TWO_SHELLS)


def test_an_acquisition_that_supports_nothing_is_described():
    with pytest.raises(AcquisitionError, match=r"b-values 0, 1000 s/mm\^2, 4 volumes"):
        choose_signal_model("auto", acquisition(0, 1000, 1000, 1000))


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'msdki'"):
        get_signal_model("mskdi")


def test_the_choice_follows_the_shells_as_the_user_defines_them():
    measured = acquisition(0, *[200] * 12, *[1000] * 12)
    assert choose_signal_model("auto", measured)[0].name == "msdki"
    shells = find_shells(measured, b0_threshold=250)
    assert choose_signal_model("auto", measured, shells)[0].name == "ball_stick_tied"
    assert choose_signal_model("ball_stick", measured, shells)[0].name == "ball_stick_tied"
