"""Names, datasets, inheritance and images on disk."""

import gzip

import numpy as np
import pytest

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.images import open_image
from bids_gmvae.io.inheritance import Inheritance, is_missing, read_json
from bids_gmvae.io.names import io_spec, name_key, parse_name
from bids_gmvae.io.sources import made_by_qsiprep
from tests.bids_tree import write_tree


class TestNames:
    def test_entities_come_in_the_order_of_bids(self):
        name = parse_name("sub-1_run-2_acq-x_space-ACPC_desc-preproc_dwi.b_table.txt")
        assert list(name.entities) == ["subject", "acquisition", "run", "space", "desc"]
        assert (name.suffix, name.extension) == ("dwi", ".b_table.txt")

    def test_unknown_entities_are_kept(self):
        assert parse_name("sub-1_foo-bar_dwi.nii").entities == {"subject": "1", "foo": "bar"}

    def test_keys_do_not_depend_on_the_order(self):
        first, second = parse_name("sub-1_ses-2_dwi.nii"), parse_name("ses-2_sub-1_dwi.nii")
        assert name_key(first.entities, "dwi", ".nii") == name_key(second.entities, "dwi", ".nii")

    def test_every_queried_entity_is_defined(self):
        spec = io_spec()
        known = {*spec["entities"], "suffix", "extension", "datatype"}
        queries = [query for kinds in spec["queries"].values() for query in kinds.values()]
        patterns = [pattern for options in spec["companions"].values() for pattern in options]
        assert {key for item in queries + patterns for key in item} <= known


class TestInheritance:
    IMAGE = "sub-1/ses-2/dwi/sub-1_ses-2_acq-x_dwi.nii.gz"

    def test_applicable_files_are_found_from_the_root_down(self, tmp_path):
        files = ["dwi.json", "sub-1/sub-1_dwi.json"]
        others = ["sub-1/sub-1_acq-y_dwi.json", "sub-1/ses-2/ses-2_bold.json", "sub-2/dwi.json"]
        root = write_tree(tmp_path, dict.fromkeys([self.IMAGE, *files, *others], "{}"))
        found = Inheritance(root).find(root / self.IMAGE, ".json")
        assert found == [root / name for name in files]

    def test_lower_levels_win_key_by_key(self, tmp_path):
        files = {
            self.IMAGE: "",
            "dwi.json": {"a": 1, "b": 1, "c": 1},
            "sub-1/sub-1_dwi.json": {"b": 2, "c": 2},
            "sub-1/ses-2/dwi/sub-1_ses-2_acq-x_dwi.json": {"c": 3},
        }
        root = write_tree(tmp_path, files)
        assert Inheritance(root).metadata(root / self.IMAGE) == {"a": 1, "b": 2, "c": 3}

    def test_tables_are_not_merged_but_the_closest_taken(self, tmp_path):
        root = write_tree(tmp_path, {self.IMAGE: "", "dwi.bval": "0", "sub-1/dwi.bval": "1"})
        assert Inheritance(root).closest(root / self.IMAGE, ".bval") == root / "sub-1/dwi.bval"
        assert Inheritance(root).closest(root / self.IMAGE, ".bvec") is None

    def test_of_an_image_outside_the_dataset_only_the_folder_is_searched(self, tmp_path):
        root = write_tree(tmp_path, {self.IMAGE: "", "dwi.bval": "0", "sub-1/dwi.bval": "1"})
        assert Inheritance(root / "other").closest(root / self.IMAGE, ".bval") is None

    def test_two_on_one_level_are_named(self, tmp_path):
        files = {self.IMAGE: "", "sub-1/acq-x_dwi.bval": "0", "sub-1/sub-1_dwi.bval": "0"}
        root = write_tree(tmp_path, files)
        with pytest.raises(InputError, match=r"acq-x_dwi\.bval and sub-1_dwi\.bval"):
            Inheritance(root).closest(root / self.IMAGE, ".bval")

    @pytest.mark.parametrize(
        ("text", "message"), [("[1]", "must hold a JSON object, but holds a list"), ("{", "JSON")]
    )
    def test_broken_sidecars_are_named(self, tmp_path, text, message):
        path = tmp_path / "dwi.json"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_json(path)


class TestContent:
    def test_pointers_of_annex_count_as_missing(self, tmp_path):
        files = {"pointer": "/annex/objects/MD5E-s9--0.nii.gz\n", "whole": "0 1 2"}
        write_tree(tmp_path, files)
        assert is_missing(tmp_path / "pointer")
        assert is_missing(tmp_path / "absent")
        assert not is_missing(tmp_path / "whole")

    def test_a_file_that_may_not_be_read_is_named(self, tmp_path, monkeypatch):
        path = write_tree(tmp_path, {"closed.json": {}}) / "closed.json"
        monkeypatch.setattr("os.access", lambda path, mode: False)
        with pytest.raises(InputError, match=r"closed\.json is needed, but may not be read"):
            read_json(path)

    @pytest.mark.parametrize("extension", ["nii", "nii.gz"])
    def test_a_file_that_was_cut_off_is_noticed_before_it_is_read(self, tmp_path, extension):
        values = np.random.default_rng(0).integers(0, 9999, (8, 8, 8, 4)).astype("i2")
        path = write_tree(tmp_path, {f"dwi.{extension}": values}) / f"dwi.{extension}"
        np.testing.assert_array_equal(open_image(path).dataobj, values)
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(InputError, match=r"but the file ends after .*cut off"):
            open_image(path)

    def test_compression_in_several_members_is_whole(self, tmp_path):
        values = np.arange(4000, dtype="i2").reshape(10, 10, 10, 4)
        path = write_tree(tmp_path, {"dwi.nii": values}) / "dwi.nii"
        content = path.read_bytes()
        whole = tmp_path / "dwi.nii.gz"
        whole.write_bytes(gzip.compress(content[:3000]) + gzip.compress(content[3000:]))
        np.testing.assert_array_equal(open_image(whole).dataobj, values)

    def test_what_is_no_image_of_real_numbers_is_refused(self, tmp_path):
        write_tree(tmp_path, {"text.nii.gz": "not an image", "empty.nii": ""})
        write_tree(tmp_path, {"complex.nii": np.zeros((2, 2, 2, 2), "c8")})
        for name in ("text.nii.gz", "empty.nii"):
            with pytest.raises(InputError, match="header cannot be read"):
                open_image(tmp_path / name)
        with pytest.raises(InputError, match=r"data type is complex64.*magnitude"):
            open_image(tmp_path / "complex.nii")


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({"GeneratedBy": [{"Name": "QSIPrep"}]}, True),
        ({"PipelineDescription": {"Name": "qsiprep"}}, True),
        ({"Name": "qsiprep output"}, True),
        ({"Name": "study", "GeneratedBy": [{"Name": "fMRIPrep"}]}, False),
        ({}, False),
    ],
)
def test_qsiprep_is_recognised_in_every_version(description, expected):
    assert made_by_qsiprep(description) is expected
