"""Populations have the moments they state."""

import pytest
import torch

from bids_gmvae.exceptions import UnknownNameError
from bids_gmvae.signal_models import SIGNAL_MODELS
from bids_gmvae.simulation.tissues import POPULATIONS, Population, Tissue, sample_population


def test_every_population_is_of_a_registered_signal_model() -> None:
    assert {population.model.name for population in POPULATIONS.values()} <= set(SIGNAL_MODELS)


@pytest.mark.parametrize("name", POPULATIONS)
def test_samples_lie_within_bounds(name: str) -> None:
    values, labels = sample_population(name, 2000, torch.Generator().manual_seed(0))
    for column, parameter in zip(
        values.unbind(-1), POPULATIONS[name].model.parameters, strict=True
    ):
        assert parameter.lower < column.min()
        assert column.max() < parameter.upper
    assert labels.unique().tolist() == [1, 2, 3]


def test_samples_have_the_stated_moments() -> None:
    values, labels = sample_population("msdki", 20_000, torch.Generator().manual_seed(0))
    white = values[labels == 1] * torch.tensor([1e3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        white.mean(0), torch.tensor([0.9, 1.0], dtype=torch.float64), atol=0.005, rtol=0
    )
    torch.testing.assert_close(
        white.std(0), torch.full((2,), 0.1, dtype=torch.float64), atol=0.005, rtol=0
    )
    assert float((labels == 1).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_parameters_are_correlated_within_a_class() -> None:
    values, labels = sample_population("ball_stick", 20_000, torch.Generator().manual_seed(0))
    z = POPULATIONS["ball_stick"].model.to_real(values[labels == 1])
    off_diagonal = torch.corrcoef(z.T)[0, 1:]
    torch.testing.assert_close(
        off_diagonal, torch.full((2,), 0.25, dtype=torch.float64), atol=0.04, rtol=0
    )


def test_unknown_population_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown population 'msdi'.*'msdki'"):
        sample_population("msdi", 1, torch.Generator())


def test_tissue_of_wrong_length_is_named() -> None:
    with pytest.raises(ValueError, match="white matter needs 2"):
        Population("msdki", (Tissue("white matter", (1e-3,), (1e-4,)),))


def test_labels_say_what_tissue_is_drawn() -> None:
    population = POPULATIONS["msdki"]
    labels = torch.tensor([4] * 500 + [3] * 500)
    values = population.sample(labels, torch.Generator().manual_seed(0))
    stroke, fluid = values[:500, 0].mean(), values[500:, 0].mean()
    assert float(stroke) == pytest.approx(0.5e-3, rel=0.02)
    assert float(fluid) == pytest.approx(3.0e-3, rel=0.02)
