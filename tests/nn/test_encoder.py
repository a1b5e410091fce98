"""Encoder and head."""

import pytest
import torch
from torch.distributions import Normal

from bids_gmvae.nn.encoder import MIN_WIDTH, Encoder, ParameterHead
from bids_gmvae.signal_models import SIGNAL_MODELS, get_signal_model


def test_layers_are_as_wide_as_the_measurements_but_not_tiny():
    assert Encoder(288).n_features == 288
    assert Encoder(4).n_features == MIN_WIDTH


def test_standardised_signals_have_mean_0_and_unit_variance_overall():
    signals = 0.5 + 0.2 * torch.randn(500, 12)
    encoder = Encoder(12)
    encoder.standardise(signals)
    seen = (signals - encoder.center) / encoder.scale
    torch.testing.assert_close(seen.mean(dim=0), torch.zeros(12), rtol=0, atol=1e-5)
    assert float(seen.square().mean()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", SIGNAL_MODELS)
def test_an_untrained_head_gives_the_centre_of_every_parameter(name):
    model = get_signal_model(name)
    head = ParameterHead(64, model)
    axes = torch.nn.functional.normalize(torch.randn(100, 3), dim=-1)
    values, orientation = head.read(
        head(torch.randn(100, 64)), axes if model.directional else None
    )
    z = model.to_real(values)
    assert z.abs().max() < 0.5
    if model.directional:
        assert (orientation * axes).sum(dim=-1).min() > 0.9


def test_no_signal_pushes_a_parameter_beyond_its_bounds():
    model = get_signal_model("ball_stick")
    head = ParameterHead(8, model)
    axes = torch.eye(3)[:1].expand(50, 3)
    values, orientation = head.read(head(1e6 * torch.randn(50, 8)), axes)
    for parameter, column in zip(model.parameters, values.unbind(-1), strict=True):
        assert column.min() >= parameter.lower * (1 - 1e-5)
        assert column.max() <= parameter.upper * (1 + 1e-5)
    torch.testing.assert_close(orientation.norm(dim=-1), torch.ones(50))


def test_drawn_outputs_have_the_moments_of_the_decoded_latent():
    head = ParameterHead(16, get_signal_model("ivim"))
    latent = Normal(torch.randn(5, 16), 0.1 + torch.rand(5, 16))
    noise = torch.randn(20000, 1, head.n_outputs)
    drawn = head.sample(latent, noise)
    decoded = head(latent.sample((20000,)))
    spread = decoded.std(dim=0)
    torch.testing.assert_close(
        (drawn.mean(dim=0) - decoded.mean(dim=0)) / spread, torch.zeros(5, 3), rtol=0, atol=0.04
    )
    torch.testing.assert_close(drawn.std(dim=0) / spread, torch.ones(5, 3), rtol=0.04, atol=0)
    for voxel in range(5):
        torch.testing.assert_close(
            torch.corrcoef(drawn[:, voxel].T),
            torch.corrcoef(decoded[:, voxel].T),
            rtol=0,
            atol=0.04,
        )
