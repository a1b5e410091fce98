import itertools

import pytest

from bids_gmvae.report.boilerplate import (
    ESTIMATORS,
    MODELS,
    bibliography,
    cited,
    methods_html,
    methods_text,
    write_boilerplate,
)
from bids_gmvae.signal_models import SIGNAL_MODELS


def test_every_signal_model_is_described():
    assert set(SIGNAL_MODELS) <= set(MODELS)


@pytest.mark.parametrize(("model", "estimator"), list(itertools.product(MODELS, ESTIMATORS)))
def test_every_citation_has_its_reference(model, estimator):
    text = methods_text(models=[model], estimator=estimator, settings={"n_components": 10})
    assert cited(text)
    assert "{" not in text
    assert "[@" not in methods_html(text)


def test_every_reference_has_what_a_list_needs():
    for reference in bibliography().values():
        assert reference.address.startswith("https://doi.org/10.")
        assert reference.fields["year"] in reference.text


def test_settings_change_the_text():
    gaussian = methods_text(
        models=["msdki"],
        estimator="lsq",
        settings={"noise_model": "gaussian", "noise_map": "global", "random_seed": 4},
        preprocessed=True,
    )
    assert "least squares" in gaussian
    assert "as one number" in gaussian
    assert "seed was 4" in gaussian
    assert "[@qsiprep]" in gaussian


def test_the_three_files_agree(tmp_path):
    written = write_boilerplate(tmp_path, models=["ivim"], estimator="gmvae", settings={})
    assert [path.name for path in written] == ["CITATION.md", "CITATION.bib", "CITATION.html"]
    markdown, bib, html = (path.read_text() for path in written)
    for reference in cited(markdown):
        assert f"{{{reference.key}," in bib
        assert reference.address in html
    assert "script" not in html


def test_an_unknown_model_does_not_break_the_text():
    assert "my_model" in methods_text(models=["my_model"], estimator="mine", settings={})
