"""Maps of a small phantom are those on file; if they shall change, see CONTRIBUTING.md."""

from dataclasses import replace

import pytest

from bids_gmvae.io.atomic import read_tsv
from tests.golden.phantom import SETTINGS, STATISTICS, differences, statistics


@pytest.mark.parametrize("rounding", [0.0, 1e-6])
def test_maps_of_the_phantom_are_those_on_file(rounding):
    found = differences(list(statistics(rounding=rounding)), read_tsv(STATISTICS))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("change", [{"noise_model": "gaussian"}, {"n_components": 3}])
def test_another_estimator_is_noticed_in_every_signal_model(change):
    found = differences(list(statistics(replace(SETTINGS, **change))), read_tsv(STATISTICS))
    assert {sentence.split()[0] for sentence in found} == {"msdki", "ball_stick"}


def test_tables_of_different_rows_are_told():
    rows = read_tsv(STATISTICS)
    (sentence,) = differences(rows[1:], rows)
    assert sentence.endswith("is only in one table")
    assert differences([{**rows[0], "n_voxels": "3"}], rows[:1])
