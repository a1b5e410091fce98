"""What holds for every sidecar, table and name that is written and read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_gmvae.io.atomic import read_tsv, write_json, write_tsv
from bids_gmvae.io.inheritance import read_json
from bids_gmvae.io.names import io_spec, parse_name
from bids_gmvae.io.run import Run
from bids_gmvae.io.sidecars import rounded
from tests.properties.strategies import SAME

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LABELS = st.from_regex(r"\A[0-9a-zA-Z+]{1,8}\Z")
ENTITIES = st.dictionaries(
    st.sampled_from(sorted(set(io_spec()["entities"]) - {"subject"})), LABELS, max_size=5
)


@SAME
@given(content=st.dictionaries(TEXT, VALUES, max_size=6))
def test_a_sidecar_survives_writing_and_reading(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "sidecar.json"
    assert read_json(write_json(path, content)) == content


@SAME
@given(
    content=st.dictionaries(TEXT, VALUES, max_size=3), bad=st.sampled_from([math.nan, math.inf])
)
def test_a_sidecar_never_holds_what_json_has_no_word_for(tmp_path_factory, content, bad):
    path = tmp_path_factory.getbasetemp() / "bad.json"
    path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, content | {"value": bad})
    assert not path.exists()


@SAME
@given(rows=st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), max_size=5))
def test_a_table_survives_writing_and_reading(tmp_path_factory, rows):
    path = write_tsv(tmp_path_factory.getbasetemp() / "table.tsv", rows, ["a", "b"])
    no_breaks = str.maketrans("\t\r\n", "   ")
    expected = [
        {key: text.translate(no_breaks) or "n/a" for key, text in row.items()} for row in rows
    ]
    assert read_tsv(path) == expected


@SAME
@given(subject=LABELS, entities=ENTITIES, extension=st.sampled_from([".nii", ".nii.gz", ".json"]))
def test_a_name_is_taken_apart_into_what_it_was_made_of(subject, entities, extension):
    short = io_spec()["entities"]
    pairs = [f"sub-{subject}", *(f"{short[key]}-{label}" for key, label in entities.items())]
    name = parse_name(f"{'_'.join(pairs)}_dwi{extension}")
    assert name.entities == {"subject": subject, **entities}
    assert list(name.entities) == [key for key in short if key in name.entities]
    assert (name.suffix, name.extension) == ("dwi", extension)


@SAME
@given(subject=LABELS, metadata=st.dictionaries(TEXT, VALUES, max_size=3))
def test_a_run_survives_as_plain_values(tmp_path_factory, subject, metadata):
    folder = tmp_path_factory.getbasetemp()
    run = Run(
        "dwi", (folder / f"sub-{subject}_dwi.nii.gz",), {"subject": subject}, metadata,
        {"bval": folder / "dwi.bval"}, "raw", folder,
    )  # fmt: skip
    assert Run.from_dict(run.to_dict()) == run


@SAME
@given(value=st.floats(1e-12, 1e12) | st.floats(-1e12, -1e-12))
def test_numbers_of_sidecars_are_rounded_but_little(value):
    assert math.isclose(rounded(value), value, rel_tol=1e-5)
