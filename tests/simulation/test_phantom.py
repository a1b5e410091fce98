"""Phantoms look like heads, and are what they say."""

import numpy as np
import pytest
import torch

from bids_gmvae.exceptions import InputError
from bids_gmvae.simulation.phantom import Phantom, make_phantom, noise_profile, smooth_noise
from bids_gmvae.simulation.tissues import get_population

VOXEL_SIZE = 8.0


def head(name: str = "msdki", seed: int = 0, **options) -> Phantom:
    rng = np.random.default_rng(seed)
    return make_phantom(get_population(name), rng, voxel_size=VOXEL_SIZE, **options)


def test_whole_brain_has_the_volume_of_a_brain() -> None:
    litres = head().mask.sum() * VOXEL_SIZE**3 / 1e6
    assert 1.2 < litres < 2.2


def test_slab_runs_through_the_ventricles() -> None:
    phantom = head(n_slices=3)
    assert phantom.mask.shape[2] == 3
    assert {1, 2, 3} <= set(np.unique(phantom.labels))


@pytest.mark.parametrize("name", ["msdki", "ball_stick", "ball_stick_tied", "t2_adc", "ivim"])
def test_truth_lies_within_bounds(name: str) -> None:
    phantom = head(name, n_slices=3, lesions=True)
    columns = zip(phantom.population.model.parameters, phantom.values.unbind(-1), strict=True)
    for parameter, column in columns:
        assert parameter.lower < column.min()
        assert column.max() < parameter.upper


def test_pure_voxels_have_the_values_of_their_tissue() -> None:
    phantom = head(seed=1)
    pure = torch.from_numpy((phantom.purity > 0.95)[phantom.mask])
    white = pure & torch.from_numpy((phantom.labels == 1)[phantom.mask])
    assert int(white.sum()) > 20
    mean = phantom.values[white].mean(0)
    # Variation is smooth, so the mean of a few voxels strays by a good part of its sd of .1.
    assert float(mean[0]) == pytest.approx(0.9e-3, abs=0.08e-3)
    assert float(mean[1]) == pytest.approx(1.0, abs=0.12)


def test_lesions_are_sharp_and_unlike_any_tissue() -> None:
    phantom = head(lesions=True, n_slices=5)
    lesion = phantom.labels >= 4
    assert {4, 5} <= set(np.unique(phantom.labels))
    assert (phantom.purity[lesion] == 1).all()
    stroke = phantom.values[torch.from_numpy((phantom.labels == 4)[phantom.mask])]
    assert float(stroke[:, 0].max()) < 0.65e-3


def test_without_lesions_there_are_none() -> None:
    assert head(n_slices=3).labels.max() == 3


def test_orientations_are_unit_vectors_that_vary_slowly() -> None:
    phantom = head(n_slices=3)
    norms = phantom.orientation.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    volume = np.zeros((*phantom.mask.shape, 3))
    volume[phantom.mask] = phantom.orientation.numpy()
    both = phantom.mask[1:] & phantom.mask[:-1]
    cosines = np.abs((volume[1:] * volume[:-1]).sum(-1))[both]
    assert np.median(np.rad2deg(np.arccos(np.clip(cosines, 0, 1)))) < 20


def test_subjects_differ_and_equal_seeds_do_not() -> None:
    assert torch.equal(head(seed=1, n_slices=3).values, head(seed=1, n_slices=3).values)
    assert (head(seed=1).labels != head(seed=2).labels).mean() > 0.02


def test_population_without_lesions_is_refused() -> None:
    with pytest.raises(InputError, match="no lesions"):
        head("msdki_paper", lesions=True)


def test_smooth_noise_has_unit_variance() -> None:
    field = smooth_noise((60, 60, 60), 4.0, np.random.default_rng(0))
    assert field.std() == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(field[1:].ravel(), field[:-1].ravel())[0, 1] > 0.8


def test_noise_profile_spans_the_ratio_around_one() -> None:
    profile = noise_profile((21, 21, 2), 3.0)
    assert profile.max() / profile.min() == pytest.approx(3.0)
    assert profile.max() * profile.min() == pytest.approx(1.0)
    assert profile[10, 10, 0] == profile.max()
