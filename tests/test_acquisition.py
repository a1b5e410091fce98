"""Acquisitions and their shells."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_gmvae.acquisition import COLUMNS, LOW_B_RESOLUTION, Acquisition, find_shells
from bids_gmvae.exceptions import AcquisitionError


def shells_of(*bvals, **options):
    return find_shells(Acquisition(bvals=torch.tensor(bvals).double()), **options)


class TestAcquisition:
    def test_columns_are_reached_by_name_and_property(self):
        acquisition = Acquisition(bvals=torch.tensor([0.0, 1.0]), echo_times=torch.ones(2))
        assert acquisition.bvals is acquisition["bvals"]
        assert acquisition.echo_times is acquisition["echo_times"]
        assert "bvals" in acquisition
        assert "bvecs" not in acquisition
        assert len(acquisition) == 2
        assert len(Acquisition()) == 0

    def test_a_missing_column_is_named_with_those_that_exist(self):
        with pytest.raises(AcquisitionError, match="gives no bvecs, only bvals"):
            _ = Acquisition(bvals=torch.zeros(2)).bvecs
        with pytest.raises(AcquisitionError, match="gives no bvals, only nothing"):
            _ = Acquisition().bvals

    def test_unknown_columns_and_unequal_lengths_are_refused(self):
        with pytest.raises(AcquisitionError, match=r"Unknown acquisition column 'bval'.*bvals"):
            Acquisition(bval=torch.zeros(2))
        with pytest.raises(AcquisitionError, match=r"differ in length.*2.*3"):
            Acquisition(bvals=torch.zeros(2), bvecs=torch.zeros(3, 3))

    def test_every_column_has_a_unit(self):
        assert all(isinstance(unit, str) for unit in COLUMNS.values())
        with pytest.raises(TypeError, match="item assignment"):
            COLUMNS["bvals"] = "ms/um^2"

    def test_selection_keeps_columns_together(self):
        acquisition = Acquisition(bvals=torch.arange(3.0), bvecs=torch.eye(3))
        for index in (torch.tensor([2, 0]), torch.tensor([True, False, True])):
            part = acquisition.select(index)
            assert torch.equal(part.bvecs.argmax(dim=1).float(), part.bvals)
            assert len(part) == 2
        assert len(acquisition) == 3

    def test_moving_casts_every_column(self):
        acquisition = Acquisition(bvals=torch.zeros(2), bvecs=torch.zeros(2, 3))
        moved = acquisition.to("meta", torch.float64)
        assert {column.device.type for column in moved.columns.values()} == {"meta"}
        assert {column.dtype for column in moved.columns.values()} == {torch.float64}


class TestShells:
    @pytest.mark.parametrize("jitter", [0.002, 0.005, 0.01])
    def test_everyday_jitter_does_not_make_new_shells(self, jitter):
        rng = np.random.default_rng(0)
        nominal = np.repeat([0, 1000, 2000, 3000], [6, 30, 30, 60])
        bvals = nominal * (1 + jitter * rng.uniform(-1, 1, len(nominal)))
        shells = shells_of(*bvals.round(-1))
        assert shells.counts.tolist() == [6, 30, 30, 60]
        np.testing.assert_allclose(shells.acquisition.bvals, [0, 1000, 2000, 3000], rtol=0.005)
        assert shells.is_b0.tolist() == [True, False, False, False]

    def test_order_of_volumes_does_not_matter(self):
        bvals = [2000, 0, 1000, 5, 1990, 1010]
        shells = shells_of(*bvals)
        assert shells.index.tolist() == [2, 0, 1, 0, 2, 1]
        assert shells.acquisition.bvals.tolist() == [2.5, 1005, 1995]

    def test_low_b_values_of_perfusion_stay_apart(self):
        shells = shells_of(0, 1, 1, 10, 25, 100, 200)
        assert shells.counts.tolist() == [3, 1, 1, 1, 1]
        assert shells.is_b0.tolist() == [True, True, True, True, False]

    def test_the_b0_threshold_separates_what_the_tolerance_would_join(self):
        assert shells_of(98, 102, b0_threshold=100).counts.tolist() == [1, 1]
        assert shells_of(98, 102, b0_threshold=50).counts.tolist() == [2]

    def test_the_b0_threshold_decides_which_shells_are_b0(self):
        bvals = (0.0, 50.0, 150.0, 1000.0)
        assert shells_of(*bvals).is_b0.tolist() == [True, True, False, False]
        assert shells_of(*bvals, b0_threshold=20).is_b0.tolist() == [True, False, False, False]
        assert shells_of(*bvals, b0_threshold=200).is_b0.tolist() == [True, True, True, False]

    def test_the_tolerance_is_half_the_width_of_a_shell(self):
        assert len(shells_of(950, 1000, 1050, shell_tolerance=0.05)) == 1
        assert len(shells_of(940, 990, 1040, shell_tolerance=0.05)) == 2

    def test_a_wide_gap_splits_even_what_would_fit_into_one_shell(self):
        assert len(shells_of(2000, 2200, shell_tolerance=0.05)) == 2
        assert len(shells_of(2000, 2100, 2200, shell_tolerance=0.05)) == 1

    def test_a_chain_of_neighbours_does_not_grow_without_end(self):
        bvals = torch.linspace(1000, 2000, 101).tolist()
        shells = shells_of(*bvals)
        for number in range(len(shells)):
            members = torch.tensor(bvals)[shells.index == number]
            assert members.max() / members.min() <= 1.05 / 0.95 + 1e-6
        assert len(shells) > 5

    def test_echo_times_split_shells(self):
        acquisition = Acquisition(
            bvals=torch.tensor([0.0, 1000, 0, 1000]),
            echo_times=torch.tensor([0.06, 0.06, 0.09, 0.09]),
        )
        shells = find_shells(acquisition)
        assert shells.counts.tolist() == [1, 1, 1, 1]
        assert shells.index.tolist() == [0, 2, 1, 3]
        assert shells.is_b0.tolist() == [True, True, False, False]

    def test_means_are_taken_within_shells(self):
        shells = shells_of(0, 1000, 0, 1000, 1000)
        values = torch.tensor([[1.0, 5.0, 3.0, 6.0, 7.0]])
        assert shells.mean(values).tolist() == [[2.0, 6.0]]
        assert shells.mean(values.expand(4, 3, 5)).shape == (4, 3, 2)

    @given(st.lists(st.floats(0, 1e4), min_size=1, max_size=40))
    @settings(max_examples=50, deadline=None)
    def test_shells_are_a_partition_into_narrow_ordered_groups(self, bvals):
        shells = shells_of(*bvals)
        values = torch.tensor(bvals).double()
        assert int(shells.counts.sum()) == len(bvals)
        assert shells.index.unique().tolist() == list(range(len(shells)))
        means = shells.acquisition.bvals
        assert torch.equal(means, means.sort().values)
        for number in range(len(shells)):
            members = values[shells.index == number]
            width = members.max() - members.min()
            if shells.is_b0[number]:
                assert width <= LOW_B_RESOLUTION
            else:
                assert members.max() <= members.min() * 1.05 / 0.95 + 1e-6


class TestComparison:
    def test_shells_are_written_with_their_echo_times(self):
        shells = shells_of(0.0, 5.0, 1000.0, 1001.0, 2000.0)
        assert str(shells) == "2 x b0, 2 x 1000, 1 x 2000 s/mm^2"
        times = torch.tensor([0.06, 0.08]).double()
        acquisition = Acquisition(bvals=torch.full((2,), 700.0), echo_times=times)
        assert str(find_shells(acquisition)) == (
            "1 x 700, 1 x 700 s/mm^2 at echo times of 0.06, 0.08 s"
        )

    @pytest.mark.parametrize(
        ("bvals", "agree"),
        [
            ((0.0, 1000.0, 1000.0), True),
            ((3.0, 1040.0), True),
            ((0.0, 1070.0), False),
            ((50.0, 1000.0), False),
            ((0.0, 1000.0, 2000.0), False),
            ((1000.0,), False),
        ],
    )
    def test_shells_agree_within_the_tolerance(self, bvals, agree):
        assert shells_of(0.0, 1000.0).agree(shells_of(*bvals), 0.05) is agree

    def test_shells_of_other_echo_times_do_not_agree(self):
        one, other = (
            find_shells(Acquisition(bvals=torch.zeros(2), echo_times=torch.tensor([0.06, last])))
            for last in (0.08, 0.1)
        )
        assert one.agree(one, 0.05)
        assert not one.agree(other, 0.05)
