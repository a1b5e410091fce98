import html
import xml.etree.ElementTree as ET

import pytest

from bids_gmvae.exceptions import InputError
from bids_gmvae.group.outliers import flag_outliers
from bids_gmvae.io.atomic import read_tsv, write_tsv
from bids_gmvae.report.assemble import build_group_report
from bids_gmvae.report.group_page import _label, _regions
from tests.report.reading import HOSTILE, assert_harmless, drawings
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


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_the_tables_say_is_shown_and_not_run(cohort, text):
    tables = {name: read_tsv(cohort / name) for name in ("group_qc.tsv", "group_parameters.tsv")}
    for name, rows in tables.items():
        columns = {"run", "model", "participant_id", "parameter", "segmentation"}
        spoilt = [
            row
            | {key: f"{row[key]}{text}" for key in columns & row.keys()}
            | {"outlier_measures": f"snr_b0; my own{text}"}
            for row in rows
            if row.get("segmentation", "atlas") == "atlas"
        ]
        write_tsv(cohort / name, spoilt)
    shown = assert_harmless(build_group_report(cohort).read_text())
    for word in ("sub-3", "msdki", "my own", "msd", "atlas"):
        assert f"{word}{text}" in shown


@pytest.mark.parametrize(
    "name", ["<b>left</b>", "</svg><script>", '"left" & right', "a--><b>", "$\\bad$", "cost $x$ a"]
)
def test_names_of_regions_are_drawn_as_they_are(cohort, name):
    rows = [row | {"region": name} for row in read_tsv(cohort / "group_parameters.tsv")]
    write_tsv(cohort / "group_parameters.tsv", rows)
    page = build_group_report(cohort).read_text()
    assert_harmless(page)
    (*_, drawing) = drawings(page)
    tree = ET.fromstring(drawing, ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))
    # Letters are drawn as lines; what they say is a comment beside.
    comments = [each.text.strip() for each in tree.iter(ET.Comment)]
    assert html.escape(name.replace("-", " "), quote=False) in comments
    assert {each.tag.rpartition("}")[2] for each in tree.iter() if isinstance(each.tag, str)} <= {
        "svg", "metadata", "RDF", "Work", "type", "format", "defs", "style", "g", "path", "use",
        "clipPath", "rect",
    }  # fmt: skip


def test_few_scans_are_not_judged(cohort):
    rows = [{"participant_id": "sub-0", "session_id": None, "run": "sub-0", "model": "msdki"}]
    write_tsv(cohort / "group_qc.tsv", flag_outliers(rows)[0])
    assert "Too few scans" in build_group_report(cohort).read_text()


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(InputError, match=r"group_parameters\.tsv"):
        build_group_report(tmp_path)
