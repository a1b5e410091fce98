import pytest

from bids_gmvae.exceptions import InputError
from bids_gmvae.group.outliers import flag_outliers
from bids_gmvae.io.atomic import write_tsv
from bids_gmvae.report.assemble import build_group_report
from bids_gmvae.report.group_page import _label, _regions
from tests.report.test_assemble import Page

N = 7


@pytest.fixture
def cohort(tmp_path):
    """The tables of a cohort in which sub-3 stands apart."""
    quality, parameters = [], []
    for index in range(N):
        own = {"participant_id": f"sub-{index}", "session_id": None, "run": f"sub-{index}",
               "model": "msdki"}  # fmt: skip
        quality.append(
            own | {"estimator": "gmvae", "snr_b0": 20 + index % 3, "fraction_failed": 0.001,
                   "residual_rms": 1.9 if index == 3 else 1 + 0.01 * index}
        )  # fmt: skip
        for segmentation, region in (("mask", "all"), ("components", "component-1"),
                                     ("atlas", "<b>left</b>")):  # fmt: skip
            parameters.append(
                own | {"parameter": "msd", "unit": "mm^2/s", "segmentation": segmentation,
                       "region": region, "median": 9e-4 + 1e-5 * index}
            )  # fmt: skip
    write_tsv(tmp_path / "group_qc.tsv", flag_outliers(quality)[0])
    write_tsv(tmp_path / "group_parameters.tsv", parameters)
    (tmp_path / "sub-3.html").touch()
    return tmp_path


def test_the_cohort_page_loads_nothing_from_anywhere(cohort):
    page = Page(build_group_report(cohort).read_text())
    assert page.tags.count("img") == 2
    assert all(source.startswith("data:image/") for source in page.loaded)
    assert "script" not in page.tags
    assert all(page.alts)


def test_outliers_are_marked_and_lead_to_their_report(cohort):
    text = build_group_report(cohort).read_text()
    assert "1 of 7 results stand apart" in text
    assert text.count('class="flag"') == 1
    assert '<a href="sub-3.html">sub-3</a>' in text
    assert 'href="sub-2.html"' not in text


def test_every_figure_of_the_cohort_says_how_to_read_it(cohort):
    text = build_group_report(cohort).read_text()
    assert text.count("How to read it.") == 1 + text.count("<figure")


def test_components_are_in_the_order_of_their_numbers():
    names = ("component-10", "unexpected", "component-minor", "component-2")
    own = {"participant_id": "sub-1", "session_id": None, "median": "1"}
    rows = [own | {"segmentation": "mask", "region": "all"}]
    rows += [own | {"segmentation": "components", "region": name} for name in names]
    ordered = ["whole mask", "component 2", "component 10", "minor components", "unexpected"]
    assert list(_regions(rows, 1.0)) == ordered


def test_runs_of_a_session_are_told_apart():
    own = {"participant_id": "sub-1", "session_id": "ses-a"}
    rows = [own | {"run": f"sub-1_ses-a_run-{k}_space-ACPC"} for k in (1, 2)]
    assert [_label(row) for row in rows] == ["sub-1, ses-a, run-1", "sub-1, ses-a, run-2"]


def test_parameters_bear_their_description(cohort):
    assert "<h4>Mean signal diffusivity</h4>" in build_group_report(cohort).read_text()


def test_names_of_regions_cannot_inject_markup(cohort):
    text = build_group_report(cohort).read_text()
    assert "<b>left" not in text


def test_few_scans_are_not_judged(cohort):
    rows = [{"participant_id": "sub-0", "session_id": None, "run": "sub-0", "model": "msdki"}]
    write_tsv(cohort / "group_qc.tsv", flag_outliers(rows)[0])
    assert "Too few scans" in build_group_report(cohort).read_text()


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(InputError, match=r"group_parameters\.tsv"):
        build_group_report(tmp_path)
