import json

import numpy as np
import pytest
import torch

from bids_gmvae.io.qc import measures, quality, quality_table
from bids_gmvae.posterior import FAILED
from bids_gmvae.signal_models import SIGNAL_MODELS
from tests.results import make_result


def values_of(result):
    return quality(measures(result), result)


@pytest.mark.parametrize("signal_model", SIGNAL_MODELS)
def test_names_are_unique_and_values_are_plain(signal_model):
    result = make_result(signal_model)
    found = measures(result)
    assert len({measure.name for measure in found}) == len(found)
    values = values_of(result)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert all(row["description"] for row in quality_table(found))


def test_counts_add_up():
    result = make_result()
    values = values_of(result)
    assert values["n_voxels_given"] == values["n_voxels_removed"] + values["n_voxels_mapped"]
    assert values["n_voxels_failed"] == 2
    assert values["fraction_failed"] == pytest.approx(2 / values["n_voxels_mapped"], rel=1e-5)
    assert values["shells"] == "0; 1000; 2000"
    assert (values["n_warnings"], values["issue_codes"]) == (1, "few_b0")


def test_failed_voxels_do_not_count():
    result = make_result()
    before = values_of(result)
    failed = np.isin(result.posterior.status, FAILED)
    for tensor in (result.posterior.mean, result.posterior.residual, result.posterior.unexpected):
        tensor[torch.from_numpy(failed)] = 1e9
    assert values_of(result) == before
    kept = result.posterior.mean[~failed, 0].numpy()
    assert before["msd_mean_median"] == pytest.approx(np.median(kept), rel=1e-5)


def test_shells_of_one_b_value_are_told_apart_by_their_order():
    result = make_result()
    for shell in result.info["shells"]:
        shell["b_value"] = 0.0
    assert {"residual_shell1", "residual_shell2", "residual_shell3"} <= values_of(result).keys()


def test_a_run_without_voxels_has_no_numbers_but_no_error():
    result = make_result(shape=(3, 3, 3))
    assert not len(result.sigma)
    values = values_of(result)
    assert (values["n_voxels_mapped"], values["residual_rms"]) == (0, None)
