import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from bids_gmvae.group.outliers import FEWEST, flag_outliers, robust_z


def test_scores_are_those_of_the_median_absolute_deviation():
    values = np.random.default_rng(0).normal(5, 2, 50)
    scale = median_abs_deviation(values, scale="normal")
    expected = (values - np.median(values)) / scale
    np.testing.assert_allclose(robust_z(values), expected, rtol=1e-3)


def test_scores_of_normal_values_are_normal():
    z = robust_z(np.random.default_rng(1).normal(-3, 7, 20000))
    assert z.std() == pytest.approx(1, abs=0.03)


def test_one_outlier_cannot_hide_itself():
    assert robust_z([1.0, 1.1, 0.9, 1.05, 0.95, 1e6])[-1] > 1000


def test_equal_values_are_no_outliers_and_tiny_differences_neither():
    np.testing.assert_array_equal(robust_z([0.0] * 6), 0)
    assert np.abs(robust_z([10.0] * 6 + [10.1])).max() < 3
    assert np.abs(robust_z([0.0] * 9 + [0.01], floor=0.005)).max() < 3


def test_one_that_differs_among_equals_is_found():
    z = robust_z([0.0] * 9 + [0.5], floor=0.005)
    assert z[-1] > 3
    assert not z[:-1].any()


def test_absent_values_and_too_few_have_no_score():
    z = robust_z([1.0, np.nan, 1.1, 0.9, 1.2, 1.0])
    np.testing.assert_array_equal(np.isnan(z), [False, True, False, False, False, False])
    assert np.isnan(robust_z(np.arange(FEWEST - 1.0))).all()


def test_runs_are_compared_with_their_like():
    rows = [
        {"model": model, "estimator": "gmvae", "residual_rms": value + offset}
        for model, offset in (("msdki", 0.0), ("bs", 100.0))
        for value in (1.0, 1.1, 0.9, 1.05, 0.95)
    ]
    flagged, descriptions = flag_outliers(rows)
    assert [row["outlier"] for row in flagged] == [False] * 10
    assert set(flagged[0]) - set(rows[0]) <= descriptions.keys()


def test_a_small_cohort_is_not_judged():
    flagged, _ = flag_outliers([{"model": "m", "estimator": "e", "residual_rms": 1.0}] * 2)
    assert [row["outlier"] for row in flagged] == [None, None]
