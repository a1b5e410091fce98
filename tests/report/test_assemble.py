import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bids_gmvae.cli.reports import write_subject_reports
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.atomic import write_json, write_tsv
from bids_gmvae.report.assemble import build_group_report, build_report
from bids_gmvae.report.reportlets import describe, figures_dir, write_unmapped
from tests.report.phantoms import make_result
from tests.report.reading import HOSTILE, assert_harmless


class Page(HTMLParser):
    """Collects what a page would load, its ids and its links into itself."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded, self.ids, self.anchors, self.alts = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag != "a":
            self.loaded += [attrs[key] for key in ("src", "href", "srcset") if key in attrs]
        elif attrs.get("href", "").startswith("#"):
            self.anchors.append(attrs["href"][1:])
        if tag == "img":
            self.alts.append(attrs.get("alt"))
        if "id" in attrs:
            self.ids.append(attrs["id"])


@pytest.fixture
def copy(mapped, tmp_path):
    """An output dataset that a test may change."""
    return shutil.copytree(mapped, tmp_path / "out")


def change(out_dir, **content):
    (path,) = figures_dir(out_dir, "01").glob("*_desc-report_dwi.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


def test_the_page_loads_nothing_from_anywhere(mapped):
    text = build_report(mapped, "01").read_text()
    page = Page(text)
    assert page.loaded
    assert all(source.startswith("data:image/") for source in page.loaded)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"@import|url\(", text)


def test_every_figure_is_there_with_its_line_and_its_alternative_text(mapped):
    (path,) = figures_dir(mapped, "01").glob("*_desc-report_dwi.json")
    n_panels = len(json.loads(path.read_text())["panels"])
    text = build_report(mapped, "01").read_text()
    page = Page(text)
    assert page.tags.count("img") == n_panels
    assert text.count("How to read it.") == n_panels
    assert all(page.alts)


def test_contents_lead_to_places_that_exist_once(mapped):
    page = Page(build_report(mapped, "01").read_text())
    assert set(page.anchors) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


#: What a page does not show of a report, but goes by.
NOT_SHOWN = {
    "file",
    "section",
    "kind",
    "severity",
    "code",
    "stem",
    "subject",
    "label",
    "reference",
}


def spoil(value, text):
    """Append a text to all texts of a report that are shown; gives these."""
    spoilt = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, str) and key not in NOT_SHOWN:
            value[key] = f"{inner}{text}"
            spoilt.append(value[key])
        elif isinstance(inner, dict | list):
            spoilt += spoil(inner, text)
    return spoilt


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_report_says_is_shown_and_not_run(copy, text):
    (path,) = figures_dir(copy, "01").glob("*_desc-report_dwi.json")
    report = json.loads(path.read_text())
    report["issues"] = [{"severity": "warning", "code": "x", "text": "A reason", "hint": "Help"}]
    report["settings"] |= {f"key{text}": "value"}
    report["stem"] = f"sub-01_acq-a{text}"
    expected = [*spoil(report, text), f"key{text}", f"acq a{text}"]
    expected.remove(f"Training{text}")  # the heading of its section says it
    assert len(expected) > 60
    path.write_text(json.dumps(report))
    shown = assert_harmless(build_report(copy, "01").read_text())
    assert [value for value in expected if value not in shown] == []


def test_a_missing_figure_is_left_out(copy, caplog):
    (lost,) = figures_dir(copy, "01").glob("*_desc-training_dwi.svg")
    before = Page(build_report(copy, "01").read_text()).tags.count("img")
    lost.unlink()
    text = build_report(copy, "01").read_text()
    assert Page(text).tags.count("img") == before - 1
    assert "Evidence lower bound" not in text
    assert lost.name in caplog.text


def test_a_figure_outside_the_folder_is_not_shown(copy):
    (copy / "secret.png").write_bytes(b"secret")
    panel = {"file": "../../secret.png", "section": "fit", "title": "", "how_to_read": "",
             "alt": "", "width": 100}  # fmt: skip
    change(copy, panels=[panel])
    assert "img" not in Page(build_report(copy, "01").read_text()).tags


def test_warnings_come_before_notes_and_set_the_verdict(copy):
    notes = [
        {"severity": "info", "code": "a", "text": "A small note.", "hint": ""},
        {"severity": "warning", "code": "b", "text": "A large worry.", "hint": ""},
    ]
    change(copy, issues=notes)
    text = build_report(copy, "01").read_text()
    assert text.index("A large worry.") < text.index("A small note.")
    assert "one point needs your attention" in text
    change(copy, issues=notes[:1])
    assert "nothing to worry about" in build_report(copy, "01").read_text()


def test_preprocessing_is_part_of_the_methods(copy):
    assert "QSIPrep" not in build_report(copy, "01").read_text()
    change(copy, preprocessed=True)
    assert "preprocessed with QSIPrep" in build_report(copy, "01").read_text()


def test_sessions_and_models_share_a_page_or_have_their_own(tmp_path):
    for stem, model in (("sub-01_ses-a", "msdki"), ("sub-01_ses-b", "ball_stick")):
        result = make_result(shape=(7, 8, 1), stem=stem, model=model)
        name = f"{stem}_model-{model}_desc-report_dwi.json"
        write_json(figures_dir(tmp_path, "01") / name, {**describe(result), "panels": []})
    both = build_report(tmp_path, "01").read_text()
    assert "Mean signal diffusion kurtosis imaging (ses a)" in both
    assert "Ball and stick with one fibre orientation (ses b)" in both
    alone = build_report(tmp_path, "01", session="a", level="session")
    assert alone == tmp_path / "sub-01" / "ses-a" / "sub-01_ses-a.html"
    assert "(ses b)" not in alone.read_text()


def test_pages_at_another_level_replace_earlier_ones(tmp_path):
    for stem in ("sub-01_ses-a", "sub-01_ses-b"):
        report = {**describe(make_result(shape=(7, 8, 1), stem=stem)), "panels": []}
        write_json(figures_dir(tmp_path, "01") / f"{stem}_desc-report_dwi.json", report)
        (tmp_path / "sub-01" / stem[-5:]).mkdir()
    kept = [tmp_path / name for name in ("sub-01.txt", "sub-010.html", "sub-01/notes.html")]
    for path in kept:
        path.touch()
    row = {"participant_id": "sub-01", "session_id": "ses-b", "run": "sub-01_ses-b"}
    row |= {"model": "dki", "snr_b0": 20, "parameter": "msd", "unit": "", "segmentation": "mask"}
    for name in ("group_qc.tsv", "group_parameters.tsv"):
        write_tsv(tmp_path / name, [row | {"region": "all", "median": 1}])
    build_report(tmp_path, "01", level="subject")
    build_group_report(tmp_path)
    places = {
        "root": ["sub-01.html"],
        "subject": ["sub-01/sub-01.html"],
        "session": [f"sub-01/ses-{label}/sub-01_ses-{label}.html" for label in "ab"],
    }
    for level in ("root", "session", "subject", "root"):
        pages, failures = write_subject_reports(tmp_path, ["01"], level=level)
        assert not failures
        assert pages == [tmp_path / name for name in places[level]]
        assert set(tmp_path.rglob("*.html")) == {*pages, *kept[1:], tmp_path / "group.html"}
        assert f'href="{places[level][-1]}"' in (tmp_path / "group.html").read_text()
    assert all(path.is_file() for path in kept)


def test_a_run_that_was_not_mapped_is_told_first(copy):
    issue = {"severity": "error", "code": "b0", "text": "There is no b0.", "hint": "Add one."}
    run = make_result(shape=(7, 8, 1), stem="sub-01_run-2").run
    write_unmapped(run, [issue], copy)
    text = build_report(copy, "01").read_text()
    assert "1 of 2 runs could not be mapped" in text
    assert "There is no b0. Add one." in text
    assert text.count('<span class="mark error">Error</span>') == 1


def test_a_run_that_was_not_mapped_tells_no_folders(tmp_path):
    run = make_result(shape=(7, 8, 1)).run
    run = replace(
        run, dataset_root=Path("/secret"), companions={"mask": Path("/private/mask.nii.gz")}
    )
    text = "/secret/sub-01/dwi/a.bval is bad, and so is /private/mask.nii.gz."
    issue = {"severity": "error", "code": "b0", "text": text, "hint": ""}
    written = json.loads(write_unmapped(run, [issue], tmp_path).read_text())
    assert written["issues"][0]["text"] == "sub-01/dwi/a.bval is bad, and so is mask.nii.gz."


def test_only_unmapped_runs_make_a_page_too(tmp_path):
    write_unmapped(make_result(shape=(7, 8, 1)).run, [], tmp_path)
    assert "could not be mapped" in build_report(tmp_path, "01").read_text()


def test_a_participant_without_reportlets_is_an_error(tmp_path):
    with pytest.raises(InputError, match="sub-99"):
        build_report(tmp_path, "99")


def test_the_page_never_claims_that_lesions_are_safe(mapped):
    text = build_report(mapped, "01").read_text()
    assert "no proof of health" in text
    assert "no diagnosis" in text


def test_the_page_is_light(mapped):
    assert build_report(mapped, "01").stat().st_size < 4e6
