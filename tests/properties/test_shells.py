"""What holds for the shells of every acquisition."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_gmvae.acquisition import Acquisition, find_shells
from tests.properties.strategies import SAME, SEEDS, shelled_bvals


def shells_of(bvals, **options):
    return find_shells(Acquisition(bvals=torch.as_tensor(bvals, dtype=torch.float64)), **options)


@SAME
@given(found=shelled_bvals())
def test_shells_that_are_apart_are_found_as_they_were_made(found):
    bvals, made = found
    index = shells_of(bvals).index.numpy()
    numbers = np.unique(made, return_inverse=True)[1]
    np.testing.assert_array_equal(index, numbers)


@SAME
@given(found=shelled_bvals(), seed=SEEDS)
def test_the_order_of_volumes_does_not_matter(found, seed):
    bvals, _ = found
    order = np.random.default_rng(seed).permutation(len(bvals))
    before, after = shells_of(bvals), shells_of(bvals[order])
    np.testing.assert_array_equal(after.index, before.index[torch.from_numpy(order)])
    assert after.counts.tolist() == before.counts.tolist()
    torch.testing.assert_close(after.acquisition.bvals, before.acquisition.bvals)


@SAME
@given(found=shelled_bvals(), scale=st.floats(0.8, 5))
def test_the_strength_of_all_gradients_does_not_matter(found, scale):
    bvals, _ = found
    before, after = shells_of(bvals), shells_of(bvals * scale)
    np.testing.assert_array_equal(after.index, before.index)
    torch.testing.assert_close(after.acquisition.bvals, before.acquisition.bvals * scale)


@SAME
@given(
    bvals=st.lists(st.floats(0, 1e4), min_size=1, max_size=80),
    tolerance=st.floats(0.001, 0.3),
)
def test_any_b_values_are_shared_out_in_shells_of_bounded_width(bvals, tolerance):
    shells = shells_of(bvals, shell_tolerance=tolerance)
    assert int(shells.counts.sum()) == len(bvals)
    assert torch.bincount(shells.index).tolist() == shells.counts.tolist()
    for number in range(len(shells)):
        members = torch.tensor(bvals, dtype=torch.float64)[shells.index == number]
        if not shells.is_b0[number]:
            widest = (1 + tolerance) / (1 - tolerance)
            assert members.max() <= members.min() * widest * (1 + 1e-12)
        assert members.min() - 1e-6 <= shells.acquisition.bvals[number] <= members.max() + 1e-6
    assert (shells.acquisition.bvals.diff() > 0).all()


@SAME
@given(found=shelled_bvals(), seed=SEEDS)
def test_means_over_shells_are_those_of_their_members(found, seed):
    bvals, _ = found
    shells = shells_of(bvals)
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, len(bvals))))
    means = shells.mean(values)
    for number in range(len(shells)):
        expected = values[:, shells.index == number].mean(dim=1)
        torch.testing.assert_close(means[:, number], expected)
