"""Discovery of diffusion series."""

import json
from pathlib import Path

import pytest

from bids_gmvae.config import ModelSettings, RunSettings, SelectionSettings
from bids_gmvae.exceptions import InputError, UnknownNameError
from bids_gmvae.modalities import MODALITIES
from bids_gmvae.modalities.dwi import check, find_runs
from tests.bids_tree import (
    MASK_DATASET,
    QSIPREP,
    prefixed,
    qsiprep_dataset,
    raw_dataset,
    series,
    write_tree,
)


def settings_for(root, **selection):
    return RunSettings(
        root, root.parent / "out", "participant", selection=SelectionSettings(**selection)
    )


def stems_of(root, **selection):
    return [run.stem for run in find_runs(settings_for(root, **selection))[0]]


def reasons_of(root, **selection):
    return {item.path.name: item.reason for item in find_runs(settings_for(root, **selection))[1]}


def errors_of(run):
    issues = check(run, ModelSettings()).issues
    return [issue for issue in issues if issue.severity == "error"]


def test_dwi_is_registered():
    assert set(MODALITIES) == {"dwi"}


class TestRaw:
    def test_a_series_is_found_with_its_tables_and_sidecar(self, tmp_path):
        root = write_tree(tmp_path / "bids", raw_dataset("sub-01/ses-1/dwi/sub-01_ses-1_run-01"))
        runs, skipped = find_runs(settings_for(root))
        (run,) = runs
        assert skipped == []
        assert run.entities == {"subject": "01", "session": "1", "run": "01"}
        assert (run.dataset, run.dataset_root) == ("raw", root)
        assert run.metadata == {"EchoTime": 0.08}
        assert {kind: path.name for kind, path in run.companions.items()} == {
            "bval": "sub-01_ses-1_run-01_dwi.bval",
            "bvec": "sub-01_ses-1_run-01_dwi.bvec",
        }

    def test_tables_are_inherited_from_the_root(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01", "sub-02/dwi/sub-02")
        for kind in ("bval", "bvec"):
            files[f"dwi.{kind}"] = files.pop(f"sub-01/dwi/sub-01_dwi.{kind}")
            del files[f"sub-02/dwi/sub-02_dwi.{kind}"]
        files["dwi.json"] = {"EchoTime": 0.1, "Manufacturer": "X"}
        root = write_tree(tmp_path / "bids", files)
        runs, _ = find_runs(settings_for(root))
        assert [run.companions["bval"] for run in runs] == [root / "dwi.bval"] * 2
        assert runs[0].metadata == {"EchoTime": 0.08, "Manufacturer": "X"}
        assert all(check(run, ModelSettings()).ok for run in runs)

    def test_two_applicable_tables_on_one_level_are_an_error_naming_both(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01_acq-x_run-1")
        content = files.pop("sub-01/dwi/sub-01_acq-x_run-1_dwi.bval")
        files |= {f"sub-01/dwi/sub-01_{name}_dwi.bval": content for name in ("acq-x", "run-1")}
        root = write_tree(tmp_path / "bids", files)
        (run,), _ = find_runs(settings_for(root))
        (issue,) = [
            issue for issue in check(run, ModelSettings()).issues if issue.code != "no_mask"
        ]
        assert issue.severity == "error"
        assert "sub-01_acq-x_dwi.bval and sub-01_run-1_dwi.bval" in issue.text

    def test_the_file_of_the_same_name_wins_over_a_more_general_one(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01_dir-PA", "sub-01/dwi/sub-01_acq-x_dir-PA")
        root = write_tree(tmp_path / "bids", files)
        runs, _ = find_runs(settings_for(root))
        assert [run.companions["bval"].name for run in runs] == [
            "sub-01_acq-x_dir-PA_dwi.bval",
            "sub-01_dir-PA_dwi.bval",
        ]

    def test_maps_of_the_scanner_and_other_parts_are_skipped_with_a_reason(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01_part-mag", "sub-01/dwi/sub-01_part-phase")
        maps = ("ADC", "FA", "trace", "S0map", "colFA", "expADC")
        files |= {f"sub-01/dwi/sub-01_{suffix}.nii.gz": "" for suffix in (*maps, "sbref")}
        root = write_tree(tmp_path / "bids", files)
        assert stems_of(root) == ["sub-01_part-mag"]
        reasons = reasons_of(root)
        assert reasons.pop("sub-01_part-phase_dwi.nii.gz") == (
            "part-phase: only magnitude images are mapped"
        )
        assert set(reasons) == {f"sub-01_{suffix}.nii.gz" for suffix in maps}
        assert all("made by the scanner" in reason for reason in reasons.values())

    def test_a_participant_without_series_is_mentioned(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01", **{"sub-02/anat/sub-02_T1w.nii.gz": ""})
        assert "no diffusion series" in reasons_of(write_tree(tmp_path, files))["sub-02"]

    def test_labels_with_a_plus_and_folders_that_look_like_entities_do_no_harm(self, tmp_path):
        folder = tmp_path / "sub-99" / "ses-old" / "acq-z"
        root = write_tree(folder, raw_dataset("sub-a+1/dwi/sub-a+1"))
        (run,), _ = find_runs(settings_for(root))
        assert run.entities == {"subject": "a+1"}

    def test_a_relative_path_is_enough(self, tmp_path, monkeypatch):
        write_tree(tmp_path / "bids", raw_dataset("sub-01/dwi/sub-01"))
        monkeypatch.chdir(tmp_path)
        settings = RunSettings(Path("bids"), Path("out"), "participant")
        assert find_runs(settings)[0][0].image.is_file()

    def test_a_broken_annex_link_is_named_with_the_command_that_gets_it(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01")
        files["sub-01/dwi/sub-01_dwi.nii.gz"] = Path("../../.git/annex/objects/gone.nii.gz")
        root = write_tree(tmp_path, files)
        (run,), _ = find_runs(settings_for(root))
        checked = check(run, ModelSettings())
        assert not checked.ok
        assert f"datalad get {run.image}" in checked.issues[0].hint

    def test_one_unreadable_sidecar_does_not_hide_the_other_runs(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01", "sub-02/dwi/sub-02")
        files["sub-01/dwi/sub-01_dwi.json"] = "{"
        runs, _ = find_runs(settings_for(write_tree(tmp_path, files)))
        assert [check(run, ModelSettings()).ok for run in runs] == [False, True]
        assert "sub-01_dwi.json must be a JSON file" in str(check(runs[0], ModelSettings()).issues)


class TestDerivatives:
    @pytest.mark.parametrize("version", QSIPREP)
    def test_qsiprep_of_every_version_is_found_with_all_companions(self, tmp_path, version):
        names = ("sub-01_ses-1_run-1", "sub-01_ses-1_run-2")
        root = write_tree(tmp_path / "qsiprep", qsiprep_dataset(version, *names))
        runs, skipped = find_runs(settings_for(root))
        space = QSIPREP[version][1]
        assert skipped == []
        assert [run.stem for run in runs] == [f"{name}_space-{space}" for name in names]
        for run in runs:
            assert run.dataset == "preprocessed"
            assert set(run.companions) == {
                *("bval", "bvec", "b", "mask", "reference"),
                *("confounds", "image_qc", "to_template"),
            }
            assert all(path.is_file() for path in run.companions.values())
            assert check(run, ModelSettings()).ok

    def test_the_folder_that_old_qsiprep_made_in_its_output_is_entered(self, tmp_path):
        root = write_tree(tmp_path, prefixed("qsiprep", qsiprep_dataset("0.22")))
        (run,), _ = find_runs(settings_for(root))
        assert run.dataset_root == root / "qsiprep"

    def test_anatomy_may_be_absent_or_in_the_session(self, tmp_path):
        name = "sub-01_ses-1_from-ACPC_to-MNI152NLin2009cAsym_mode-image_xfm.h5"
        files = qsiprep_dataset("1.0", "sub-01_ses-1", "sub-01_ses-2", anatomy=False)
        root = write_tree(tmp_path, files | {f"sub-01/ses-1/anat/{name}": ""})
        first, second = find_runs(settings_for(root))[0]
        assert first.companions["to_template"].name == name
        assert "to_template" not in second.companions

    def test_derivatives_in_the_dataset_win_over_the_raw_runs_they_came_from(self, tmp_path):
        raw = ("sub-01/dwi/sub-01_dir-AP", "sub-01/dwi/sub-01_dir-PA", "sub-02/dwi/sub-02")
        files = raw_dataset(*raw) | prefixed("derivatives/qsiprep", qsiprep_dataset("1.0"))
        root = write_tree(tmp_path, files)
        runs, _ = find_runs(settings_for(root))
        assert [(run.stem, run.dataset) for run in runs] == [
            ("sub-01_space-ACPC", "qsiprep"),
            ("sub-02", "raw"),
        ]
        reasons = reasons_of(root)
        assert set(reasons) == {"sub-01_dir-AP_dwi.nii.gz", "sub-01_dir-PA_dwi.nii.gz"}
        assert all("preprocessed version is used" in reason for reason in reasons.values())

    def test_input_type_decides_between_raw_and_preprocessed(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01", "sub-02/dwi/sub-02")
        files |= prefixed("derivatives/qsiprep", qsiprep_dataset("1.0"))
        root = write_tree(tmp_path, files)
        assert stems_of(root, input_type="raw") == ["sub-01", "sub-02"]
        assert stems_of(root, input_type="qsiprep") == ["sub-01_space-ACPC"]
        with pytest.raises(InputError, match="--input-type must be one of auto, raw, qsiprep"):
            find_runs(settings_for(root, input_type="hcp"))

    def test_input_type_that_is_not_there_is_an_error(self, tmp_path):
        raw = write_tree(tmp_path / "raw", raw_dataset("sub-01/dwi/sub-01"))
        with pytest.raises(InputError, match="needs a preprocessed derivative dataset"):
            find_runs(settings_for(raw, input_type="qsiprep"))
        prepared = write_tree(tmp_path / "qsiprep", qsiprep_dataset("1.0"))
        with pytest.raises(InputError, match="needs raw data"):
            find_runs(settings_for(prepared, input_type="raw"))

    def test_a_named_derivative_gives_runs_under_its_name(self, tmp_path):
        raw = write_tree(tmp_path / "raw", raw_dataset("sub-01/dwi/sub-01"))
        prepared = write_tree(tmp_path / "elsewhere", qsiprep_dataset("26.0"))
        (run,), skipped = find_runs(settings_for(raw, derivatives={"prep": prepared}))
        assert (run.dataset, run.dataset_root) == ("prep", prepared)
        assert [item.path.name for item in skipped] == ["sub-01_dwi.nii.gz"]

    def test_the_same_run_of_two_derivatives_is_mapped_once(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01")
        files |= prefixed("derivatives/qsiprep-old", qsiprep_dataset("0.23"))
        files |= prefixed("derivatives/qsiprep-new", qsiprep_dataset("1.0"))
        root = write_tree(tmp_path, files)
        assert stems_of(root) == ["sub-01_space-ACPC"]
        reason = reasons_of(root)["sub-01_space-T1w_desc-preproc_dwi.nii.gz"]
        assert "is taken from dataset 'qsiprep-new'" in reason

    def test_two_series_with_the_same_output_names_are_mapped_once(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01")
        files["sub-01/dwi/sub-01_dwi.nii"] = files["sub-01/dwi/sub-01_dwi.nii.gz"]
        root = write_tree(tmp_path, files)
        assert stems_of(root) == ["sub-01"]
        assert "would have the same output names" in reasons_of(root)["sub-01_dwi.nii.gz"]

    def test_a_mask_of_a_raw_run_comes_from_a_derivative_wherever_it_lies(self, tmp_path):
        files = raw_dataset("sub-01/ses-a/dwi/sub-01_ses-a")
        mask = "derivatives/masks/sub-01/dwi/sub-01_ses-a_desc-brain_mask.nii.gz"
        files |= {"derivatives/masks/dataset_description.json": MASK_DATASET, mask: ""}
        root = write_tree(tmp_path, files)
        (run,), _ = find_runs(settings_for(root))
        assert run.companions["mask"] == root / mask

    def test_a_mask_of_another_run_is_not_taken(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01_run-1")
        mask = "derivatives/masks/sub-01/dwi/sub-01_run-2_desc-brain_mask.nii.gz"
        files |= {"derivatives/masks/dataset_description.json": MASK_DATASET, mask: ""}
        (run,), _ = find_runs(settings_for(write_tree(tmp_path, files)))
        assert "mask" not in run.companions

    def test_a_derivative_without_description_is_mentioned(self, tmp_path):
        prepared = qsiprep_dataset("1.0")
        del prepared["dataset_description.json"]
        files = raw_dataset("sub-01/dwi/sub-01") | prefixed("derivatives/qsiprep", prepared)
        root = write_tree(tmp_path, files)
        assert stems_of(root) == ["sub-01"]
        assert "without dataset_description.json" in reasons_of(root)["qsiprep"]

    def test_own_outputs_are_no_inputs(self, tmp_path):
        own = {"DatasetType": "derivative", "GeneratedBy": [{"Name": "bids_gmvae"}]}
        files = raw_dataset("sub-01/dwi/sub-01")
        files |= prefixed("derivatives/gmvae", {"dataset_description.json": own})
        files["derivatives/gmvae/sub-01/dwi/sub-01_desc-brain_mask.nii.gz"] = ""
        (run,), skipped = find_runs(settings_for(write_tree(tmp_path, files)))
        assert "mask" not in run.companions
        assert skipped == []

    def test_other_derived_series_are_skipped_with_a_reason(self, tmp_path):
        files = qsiprep_dataset("1.0") | series("sub-01/dwi/sub-01_space-ACPC_desc-denoised")
        root = write_tree(tmp_path, files)
        reason = reasons_of(root)["sub-01_space-ACPC_desc-denoised_dwi.nii.gz"]
        assert reason == "not selected: desc-denoised, where 'preproc' is wanted"


class TestSelection:
    @pytest.fixture
    def root(self, tmp_path):
        names = [f"sub-{s}/ses-{v}/dwi/sub-{s}_ses-{v}" for s in ("01", "02") for v in ("a", "b")]
        more = ["sub-03/dwi/sub-03_acq-b1000_run-1", "sub-03/dwi/sub-03_acq-b3000_run-02"]
        return write_tree(tmp_path / "bids", raw_dataset(*names, *more))

    def test_participants_sessions_acquisitions_and_runs_are_selected(self, root):
        assert stems_of(root, participant_label=("sub-02",)) == ["sub-02_ses-a", "sub-02_ses-b"]
        assert stems_of(root, session_label=("ses-b",)) == ["sub-01_ses-b", "sub-02_ses-b"]
        assert stems_of(root, acq_label=("b3000",)) == ["sub-03_acq-b3000_run-02"]
        assert stems_of(root, run_id=("2",)) == ["sub-03_acq-b3000_run-02"]
        assert stems_of(root, run_id=("01",)) == ["sub-03_acq-b1000_run-1"]

    def test_what_was_not_selected_is_said(self, root):
        reasons = reasons_of(root, session_label=("b",), participant_label=("01", "03"))
        assert reasons["sub-01_ses-a_dwi.nii.gz"] == (
            "not selected: session 'a', where 'b' is wanted"
        )
        assert reasons["sub-03_acq-b1000_run-1_dwi.nii.gz"] == (
            "not selected: no session, where 'b' is wanted"
        )
        assert not any(name.startswith("sub-02") for name in reasons)

    def test_an_unknown_participant_is_an_error_that_lists_the_known(self, root):
        with pytest.raises(InputError, match=r"Participants 04 were .*: 01, 02, 03\."):
            find_runs(settings_for(root, participant_label=("01", "04")))

    @pytest.mark.parametrize(
        ("entities", "expected"),
        [
            ({"session": "a"}, ["sub-01_ses-a", "sub-02_ses-a"]),
            ({"session": None}, ["sub-03_acq-b1000_run-1", "sub-03_acq-b3000_run-02"]),
            ({"acquisition": "*"}, ["sub-03_acq-b1000_run-1", "sub-03_acq-b3000_run-02"]),
            ({"acq": "b1000"}, ["sub-03_acq-b1000_run-1"]),
            ({"session": ["a", "b"], "subject": "01"}, ["sub-01_ses-a", "sub-01_ses-b"]),
            ({"run": 2}, ["sub-03_acq-b3000_run-02"]),
        ],
    )
    def test_a_filter_file_has_effect(self, root, tmp_path, entities, expected):
        path = tmp_path / "filter.json"
        path.write_text(json.dumps({"dwi": entities, "t1w": {"session": "a"}, "roi": {}}))
        assert stems_of(root, bids_filter_file=path) == expected

    def test_mistakes_in_a_filter_file_are_named(self, root, tmp_path):
        path = tmp_path / "filter.json"
        path.write_text('{"dwi": {"acquisitoin": "b1000"}}')
        with pytest.raises(UnknownNameError, match="Did you mean 'acquisition'"):
            find_runs(settings_for(root, bids_filter_file=path))
        path.write_text('{"dwi": "b1000"}')
        with pytest.raises(InputError, match="query 'dwi' must be an object"):
            find_runs(settings_for(root, bids_filter_file=path))
        path.write_text('{"dwi": {"run": {"min": 1}}}')
        with pytest.raises(InputError, match=r"must be a label, .* but one is {\"min\": 1}"):
            find_runs(settings_for(root, bids_filter_file=path))
        with pytest.raises(InputError, match="does not exist"):
            find_runs(settings_for(root, bids_filter_file=tmp_path / "none.json"))

    def test_a_kept_index_gives_the_same_runs_for_any_participants(self, root, tmp_path):
        first = stems_of(root, bids_database_dir=tmp_path / "db", participant_label=("01",))
        second = stems_of(root, bids_database_dir=tmp_path / "db")
        assert (tmp_path / "db" / "layout_index.sqlite").is_file()
        assert first == ["sub-01_ses-a", "sub-01_ses-b"]
        assert second == stems_of(root)

    def test_an_index_that_lacks_new_images_is_refused(self, root, tmp_path):
        stems_of(root, bids_database_dir=tmp_path / "db")
        write_tree(root, raw_dataset("sub-99/dwi/sub-99"))
        with pytest.raises(InputError, match=r"lacks .*sub-99_dwi\.nii\.gz"):
            stems_of(root, bids_database_dir=tmp_path / "db")

    def test_an_index_of_another_dataset_is_refused(self, root, tmp_path):
        other = write_tree(tmp_path / "other", raw_dataset("sub-01/dwi/sub-01"))
        stems_of(root, bids_database_dir=tmp_path / "db")
        with pytest.raises(InputError, match="must hold an index of"):
            stems_of(other, bids_database_dir=tmp_path / "db")


class TestNoDataset:
    def test_a_folder_without_participants_is_refused(self, tmp_path):
        write_tree(tmp_path, {"dmri.nii.gz": "", "bvecs.txt": "1 0 0"})
        with pytest.raises(InputError, match="has no sub-<label> folder"):
            find_runs(settings_for(tmp_path))
        with pytest.raises(InputError, match="does not exist"):
            find_runs(settings_for(tmp_path / "nothing"))

    def test_a_missing_description_is_an_error_that_can_be_waived(self, tmp_path):
        files = raw_dataset("sub-01/dwi/sub-01")
        del files["dataset_description.json"]
        root = write_tree(tmp_path / "bids", files)
        with pytest.raises(InputError, match=r"needs dataset_description\.json"):
            find_runs(settings_for(root))
        assert stems_of(root, skip_bids_validation=True) == ["sub-01"]

    def test_names_of_derivatives_must_be_free_and_their_folders_exist(self, tmp_path):
        root = write_tree(tmp_path / "bids", raw_dataset("sub-01/dwi/sub-01"))
        with pytest.raises(InputError, match="'raw', which is reserved or taken"):
            find_runs(settings_for(root, derivatives={"raw": root}))
        with pytest.raises(InputError, match="must name a folder"):
            find_runs(settings_for(root, derivatives={"prep": tmp_path / "gone"}))

    def test_a_raw_dataset_made_by_a_converter_stays_raw(self, tmp_path):
        description = {"Name": "study", "GeneratedBy": [{"Name": "heudiconv"}]}
        files = raw_dataset("sub-01/dwi/sub-01") | {"dataset_description.json": description}
        (run,), _ = find_runs(settings_for(write_tree(tmp_path, files)))
        assert run.dataset == "raw"

    def test_settings_are_not_changed(self, tmp_path):
        root = write_tree(tmp_path / "bids", raw_dataset("sub-01/dwi/sub-01"))
        settings = settings_for(root)
        find_runs(settings)
        assert settings == settings_for(root)
