"""Maps of a small phantom are those on file; if they shall change, see CONTRIBUTING.md."""

from dataclasses import replace

import pytest

from bids_gmvae.io.atomic import read_tsv
from bids_gmvae.signal_models import SIGNAL_MODELS
from tests.golden.phantom import DESIGNS, SETTINGS, STATISTICS, differences, statistics

#: Signal models that are compiled: the others take longer.
FAST = ("msdki", "ball_stick", "ball_stick_tied")


def on_file(names):
    return [row for row in read_tsv(STATISTICS) if row["signal_model"] in names]


@pytest.mark.parametrize("names", [FAST, ("ivim",), ("t2_adc",)], ids=" ".join)
def test_maps_of_the_phantom_are_those_on_file(names):
    found = differences(list(statistics(names)), on_file(names))
    assert not found, "\n".join(found)


def test_maps_do_not_depend_on_the_last_digits_of_signals():
    found = differences(list(statistics(FAST, rounding=1e-6)), on_file(FAST))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("change", [{"noise_model": "gaussian"}, {"n_components": 3}])
def test_another_estimator_is_noticed_in_every_signal_model(change):
    found = differences(list(statistics(FAST, replace(SETTINGS, **change))), on_file(FAST))
    assert {sentence.split()[0] for sentence in found} == set(FAST)


def test_every_signal_model_is_there():
    assert DESIGNS.keys() == SIGNAL_MODELS.keys()


def test_tables_of_different_rows_are_told():
    rows = read_tsv(STATISTICS)
    (sentence,) = differences(rows[1:], rows)
    assert sentence.endswith("is only in one table")
    assert differences([{**rows[0], "n_voxels": "3"}], rows[:1])
