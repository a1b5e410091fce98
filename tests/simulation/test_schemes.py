"""Schemes have the volumes they promise, well spread."""

import numpy as np
import pytest
import torch

from bids_gmvae.exceptions import InputError, UnknownNameError
from bids_gmvae.simulation.catalogue import SCHEMES
from bids_gmvae.simulation.schemes import get_scheme, read_scheme, spread_directions


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("hcp", {0: 18, 1000: 90, 2000: 90, 3000: 90}),
        ("multishell", {0: 6, 1000: 30, 2000: 30, 3000: 30}),
        ("twoshell", {0: 6, 1000: 30, 2000: 30}),
        ("short", {0: 2, 1000: 10, 2000: 10, 3000: 10}),
        ("singleshell", {0: 3, 1000: 32}),
        ("t2adc", {0: 5, 500: 20, 1000: 20}),
    ],
)
def test_schemes_have_the_promised_volumes(name: str, counts: dict[int, int]) -> None:
    bvals = get_scheme(name).bvals
    values, found = torch.unique(bvals, return_counts=True)
    assert dict(zip(values.tolist(), found.tolist(), strict=True)) == counts
    assert bvals[0] == 0


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"hcp"}))
def test_directions_are_unit_vectors_but_zero_at_b0(name: str) -> None:
    acquisition = get_scheme(name)
    expected = (acquisition.bvals > 0).double()
    torch.testing.assert_close(acquisition.bvecs.norm(dim=1), expected)


def test_b0s_are_spread_and_shells_interleaved() -> None:
    bvals = get_scheme("multishell").bvals
    gaps = torch.diff(torch.nonzero(bvals == 0).ravel())
    assert set(gaps.tolist()) == {16}
    assert len(torch.unique(bvals[1:12])) == 3


def test_directions_repel_each_other() -> None:
    vectors = spread_directions(30, np.random.default_rng(0))
    cosines = np.abs(vectors @ vectors.T) - 2 * np.eye(30)
    # 30 axes over the half sphere can be at most about 26 degrees apart.
    assert np.rad2deg(np.arccos(cosines.max())) > 22


def test_shells_do_not_share_directions() -> None:
    acquisition = get_scheme("multishell")
    first, second = (acquisition.bvecs[acquisition.bvals == b] for b in (1000, 2000))
    assert (first @ second.T).abs().max() < 0.99999


def test_jitter_scatters_only_weighted_volumes() -> None:
    bvals = get_scheme("short", jitter=True).bvals
    assert {995.0, 1000.0, 1005.0} <= set(bvals.tolist())
    assert int((bvals == 0).sum()) == 2


def test_equal_seeds_give_equal_schemes() -> None:
    torch.testing.assert_close(
        get_scheme("short", seed=3).bvecs, get_scheme("short", seed=3).bvecs
    )
    assert not torch.equal(get_scheme("short", seed=3).bvecs, get_scheme("short", seed=4).bvecs)


def test_unknown_scheme_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown scheme 'hpc'\. Did you mean 'hcp'"):
        get_scheme("hpc")


def test_scheme_is_read_from_files(tmp_path) -> None:
    (tmp_path / "bval").write_text("0 1000\n")
    (tmp_path / "bvec").write_text("0 0.5\n0 0\n0 0\n")
    acquisition = read_scheme(tmp_path / "bval", tmp_path / "bvec")
    assert acquisition.bvals.tolist() == [0, 1000]
    assert acquisition.bvecs.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_files_that_do_not_match_are_named(tmp_path) -> None:
    (tmp_path / "bval").write_text("0 1000 1000\n")
    (tmp_path / "bvec").write_text("0 1\n0 0\n0 0\n")
    with pytest.raises(InputError, match="must have as many directions"):
        read_scheme(tmp_path / "bval", tmp_path / "bvec")
