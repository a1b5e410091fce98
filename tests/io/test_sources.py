"""Which datasets take part, and under which names."""

import json
import re
from importlib.resources import files

import pytest

from bids_gmvae.config import RunSettings, SelectionSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.io.dataset import description
from bids_gmvae.io.sidecars import bids_uri
from bids_gmvae.io.sources import find_datasets
from bids_gmvae.io.validation import validate
from tests.bids_tree import MASK_DATASET, RAW, write_tree


def study(root, *folders):
    tree = {"dataset_description.json": RAW, "sub-1/dwi/sub-1_dwi.nii.gz": ""}
    for folder in folders:
        tree[f"derivatives/{folder}/dataset_description.json"] = MASK_DATASET
        tree[f"derivatives/{folder}/sub-1/dwi/sub-1_dwi.nii.gz"] = ""
    return write_tree(root, tree)


def datasets_of(root, **derivatives):
    selection = SelectionSettings(derivatives=derivatives)
    settings = RunSettings(root, root / "out", "participant", selection=selection)
    return find_datasets(settings)[0]


def keys_of(root, **derivatives):
    return {found.root.name: found.name for found in datasets_of(root, **derivatives)[1:]}


def test_a_folder_with_an_odd_name_gets_a_key_that_uris_may_have(tmp_path):
    root = study(tmp_path / "study", "my prep", "prép (2):b", "a+b")
    roots = {found.name: found.root for found in datasets_of(root)}
    schema = json.loads(files("bids_gmvae").joinpath("data/sidecar_schema.json").read_text())
    for folder in roots.values():
        uri = bids_uri(folder / "sub-1" / "dwi" / "sub-1_dwi.nii.gz", roots)
        assert re.search(schema["$defs"]["uri"]["pattern"], uri)
        key = uri.split(":")[1]
        assert roots[key] == folder
        assert key in description(tmp_path / "out", roots)["DatasetLinks"]


def test_folders_whose_names_become_the_same_have_different_keys(tmp_path):
    root = study(tmp_path, "my prep", "my+prep", "my-prep", "qsiprep")
    assert keys_of(root) == {
        "my-prep": "my-prep",
        "my prep": "my-prep-auto",
        "my+prep": "my-prep-auto2",
        "qsiprep": "qsiprep",
    }


def test_names_that_were_given_go_before_those_of_folders(tmp_path):
    root = study(tmp_path / "study", "my prep")
    other = study(tmp_path / "other")
    assert keys_of(root, **{"my+prep": other}) == {"other": "my-prep", "my prep": "my-prep-auto"}
    with pytest.raises(InputError, match="reserved or taken"):
        keys_of(root, **{"my+prep": other, "my-prep": root})


def test_raw_is_the_key_of_no_derivative(tmp_path):
    root = study(tmp_path, "raw")
    (root / "dataset_description.json").write_text(json.dumps(MASK_DATASET))
    assert keys_of(root) == {"raw": "raw-auto"}


def test_an_input_with_an_odd_name_is_looked_for_where_it_is_now(tmp_path):
    image = "sub-1/dwi/sub-1_dwi.nii.gz"
    sidecar = {"Sources": [f"bids:my-prep:{image}"]}
    maps = {
        "sub-1/dwi/sub-1_noise_dwimap.json": sidecar,
        "sub-1/dwi/sub-1_noise_dwimap.nii.gz": "",
    }
    out_dir = write_tree(tmp_path / "out", maps)
    moved = write_tree(tmp_path / "moved", {image: ""})
    assert validate(out_dir).unreachable == (f"bids:my-prep:{image}",)
    assert validate(out_dir, {"my+prep": moved}).unreachable == ()
