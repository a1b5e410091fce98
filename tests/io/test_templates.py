import sys

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.templates import template_atlas, template_grid

SPACE = "MNI152NLin2009cAsym"


def flow(get):
    """Stand in for the templateflow package."""
    return type("templateflow", (), {"api": type("api", (), {"get": staticmethod(get)})})


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / f"tpl-{SPACE}"
    folder.mkdir()
    image = nb.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2, 2, 2, 1]))
    nb.save(image, folder / f"tpl-{SPACE}_res-02_T1w.nii.gz")
    (folder / f"tpl-{SPACE}_res-01_T1w.nii.gz").touch()  # TemplateFlow's placeholder
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    return tmp_path


def test_a_template_that_is_there_needs_no_templateflow(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "templateflow", None)  # importing it would fail
    grid, url = template_grid(SPACE, "2")
    assert grid.shape == (3, 4, 5)
    assert url.endswith(f"tpl-{SPACE}/tpl-{SPACE}_res-02_T1w.nii.gz")


def test_a_template_that_cannot_be_downloaded_is_told_in_a_sentence(home, monkeypatch):
    def get(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "templateflow", flow(get))
    # Of this resolution there is an empty placeholder only.
    with pytest.raises(InputError, match=r"cannot be downloaded \(ConnectionError\)"):
        template_grid(SPACE, "1")


def test_an_unknown_template_is_told_in_a_sentence(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "templateflow", flow(lambda *args, **kwargs: []))
    with pytest.raises(InputError, match="TemplateFlow has no T1w image of Nowhere"):
        template_grid("Nowhere", "2")


def test_an_atlas_is_asked_for_by_its_entities(tmp_path, monkeypatch):
    asked = []

    def get(space, **entities):
        asked.append((space, entities))
        path = tmp_path / f"atlas{entities['extension']}"
        path.write_text("x")
        return path

    monkeypatch.setitem(sys.modules, "templateflow", flow(get))
    image, table = template_atlas(f"{SPACE}:res-1:atlas-Schaefer2018:desc-400Parcels")
    assert (image.name, table.name) == ("atlas.nii.gz", "atlas.tsv")
    named = {"atlas": "Schaefer2018", "desc": "400Parcels", "suffix": "dseg"}
    assert asked == [
        (SPACE, {**named, "extension": ".nii.gz", "resolution": 1}),
        (SPACE, {**named, "extension": ".tsv"}),
    ]


@pytest.mark.parametrize(
    "text", ["atlas.nii", "MNI:res-1", "MNI:atlas-X:foo-1", "MNI:atlas-X:res-a"]
)
def test_other_words_for_an_atlas_are_refused(text):
    with pytest.raises(InputError, match="atlas"):
        template_atlas(text)


def test_an_unknown_atlas_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "templateflow", flow(lambda *args, **kwargs: []))
    with pytest.raises(InputError, match="TemplateFlow has no atlas MNI:atlas-X"):
        template_atlas("MNI:atlas-X")
