"""Checks of headers and gradient tables: each mistake has its sentence."""

import re
from dataclasses import replace

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.config import ModelSettings, RunSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.modalities.dwi import check, find_runs, read_acquisition
from tests.bids_tree import (
    AFFINE,
    BVALS,
    LPS,
    MASK_DATASET,
    directions,
    qsiprep_dataset,
    raw_dataset,
    series,
    text_of,
    write_tree,
)

STEM = "sub-01/dwi/sub-01"
IMAGE, BVAL, BVEC, JSON = (f"{STEM}_dwi.{kind}" for kind in ("nii.gz", "bval", "bvec", "json"))


@pytest.fixture
def run_of(tmp_path):
    """Make a dataset of one run, with files replaced, and find the run."""

    def make(bvals=BVALS, without=(), files=None, **options):
        tree = raw_dataset() | series(STEM, bvals, **options) | (files or {})
        tree = {name: content for name, content in tree.items() if name not in without}
        root = write_tree(tmp_path / "bids", tree)
        (run,), _ = find_runs(RunSettings(root, tmp_path / "out", "participant"))
        return run

    return make


def the_issue(run, code, **settings):
    checked = check(run, replace(ModelSettings(), **settings))
    (issue,) = [issue for issue in checked.issues if issue.code == code]
    assert checked.ok == (issue.severity != "error")
    assert issue.hint
    return issue


class TestFrames:
    @pytest.mark.parametrize("affine", [AFFINE, LPS, np.diag([-2.0, 2.0, 2.0, 1.0])])
    def test_fsl_tables_are_negated_along_the_first_axis_iff_the_determinant_is_positive(
        self, run_of, affine
    ):
        acquisition, frame = read_acquisition(run_of(affine=affine))
        sign = -1 if np.linalg.det(affine) > 0 else 1
        expected = directions(len(BVALS)) * (np.array(BVALS)[:, None] > 0) * [sign, 1, 1]
        np.testing.assert_allclose(acquisition.bvecs, expected, atol=1e-5)
        assert acquisition.bvals.tolist() == list(BVALS)
        assert acquisition.bvals.dtype == acquisition.bvecs.dtype
        assert str(acquisition.bvals.dtype) == "torch.float64"
        assert "sub-01_dwi.bvec (FSL)" in frame
        assert ("first axis negated" in frame) == (sign < 0)

    def test_the_table_of_mrtrix_is_preferred_and_rotated(self, tmp_path):
        root = write_tree(tmp_path / "qsiprep", qsiprep_dataset("1.0"))
        (run,), _ = find_runs(RunSettings(root, tmp_path, "participant"))
        acquisition, frame = read_acquisition(run)
        world = directions(len(BVALS), 1)
        np.testing.assert_allclose(acquisition.bvecs, world * [-1, -1, 1], atol=1e-5)
        assert frame.endswith("dwi.b (MRtrix, world axes), rotated into image axes")
        assert [issue.code for issue in check(run, ModelSettings()).issues] == ["few_directions"]

    def test_qsiprep_without_its_b_file_is_taken_as_image_axes_with_a_warning(self, tmp_path):
        files = qsiprep_dataset("1.0")
        files = {name: content for name, content in files.items() if not name.endswith(".b")}
        root = write_tree(tmp_path / "qsiprep", files)
        (run,), _ = find_runs(RunSettings(root, tmp_path, "participant"))
        acquisition, frame = read_acquisition(run)
        expected = directions(len(BVALS)) * (np.array(BVALS)[:, None] > 0)
        np.testing.assert_allclose(acquisition.bvecs, expected, atol=1e-5)
        assert the_issue(run, "qsiprep_without_b").severity == "warning"
        assert "(QSIPrep), taken as image axes" in frame

    def test_two_tables_that_disagree_are_mentioned(self, tmp_path):
        files = qsiprep_dataset("1.0")
        (name,) = [name for name in files if name.endswith(".bval")]
        files[name] = "0 1000 1000 1000 3000 1000 1000"
        root = write_tree(tmp_path / "qsiprep", files)
        (run,), _ = find_runs(RunSettings(root, tmp_path, "participant"))
        assert "volume 4 has b = 3000 and 1000" in the_issue(run, "b_files_differ").text

    def test_transposed_directions_are_read_with_a_warning(self, run_of):
        run = run_of(files={BVEC: text_of(directions(len(BVALS)))})
        assert the_issue(run, "bvecs_transposed").severity == "warning"
        expected = directions(len(BVALS)) * [-1, 1, 1]
        np.testing.assert_allclose(read_acquisition(run)[0].bvecs, expected, atol=1e-5)


class TestTables:
    def test_a_sound_run_has_no_issue_but_the_missing_mask(self, run_of):
        checked = check(run_of((0, 5, *[995, 1000, 1005] * 2, *[2000] * 6)), ModelSettings())
        assert checked.ok
        assert [issue.code for issue in checked.issues] == ["no_mask"]
        assert checked.selected.all()
        assert checked.shells == [
            {
                "b_value": 2.5,
                "n_volumes": 2,
                "is_b0": True,
                "min": 0.0,
                "max": 5.0,
                "echo_time": 0.08,
            },
            {
                "b_value": 1000.0,
                "n_volumes": 6,
                "is_b0": False,
                "min": 995.0,
                "max": 1005.0,
                "echo_time": 0.08,
            },
            {
                "b_value": 2000.0,
                "n_volumes": 6,
                "is_b0": False,
                "min": 2000.0,
                "max": 2000.0,
                "echo_time": 0.08,
            },
        ]

    @pytest.mark.parametrize(
        ("bvals", "code", "text"),
        [
            ("0 1000 1000 1000 1000 1000", "gradients", "has 6 and .*bvec has 7"),
            ("0 1000 1000 1000 1000 1000 nan", "bvals_not_finite", "volume 6"),
            ("0 1000 -1000 1000 1000 1000 1000", "bvals_negative", "volume 2 .* has -1000"),
            ("0 1 1 1 2 2 2", "bvals_scaled", "largest .* is 2, which looks like ms/um"),
            ("0 50 50 50 50 50 50", "no_weighting", "largest b-value .* is 50"),
            ("500 1000 1000 1000 1000 1000 1000", "no_b0", "smallest b-value .* is 500"),
            ("0 1000 x 1000 1000 1000 1000", "gradients", "column 3 is 'x'"),
        ],
    )
    def test_bad_bvals_are_errors_that_name_file_and_value(self, run_of, bvals, code, text):
        run = run_of(files={BVAL: bvals})
        issue = the_issue(run, code)
        assert issue.severity == "error"
        assert "sub-01_dwi.bval" in issue.text
        assert re.search(text, issue.text)

    def test_a_table_for_another_number_of_volumes_is_an_error(self, run_of):
        run = run_of(files={IMAGE: np.ones((3, 4, 2, 9), "i2")})
        assert "has 7 and" in the_issue(run, "volume_count").text
        assert "has 9 volumes" in the_issue(run, "volume_count").text

    @pytest.mark.parametrize(("missing", "name"), [(BVAL, ".bval"), (BVEC, ".bvec")])
    def test_a_missing_table_is_an_error_that_says_where_it_may_lie(self, run_of, missing, name):
        run = run_of(without=[missing])
        issue = the_issue(run, "gradients")
        assert f"needs a {name} file" in issue.text
        assert f"sub-01_dwi{name} beside the image" in issue.hint
        with pytest.raises(InputError, match=f"needs a {name} file"):
            read_acquisition(run)

    def test_a_weighted_volume_without_direction_is_an_error_naming_the_row(self, run_of):
        vectors = directions(len(BVALS))
        vectors[[0, 4]] = 0
        issue = the_issue(run_of(files={BVEC: text_of(vectors.T)}), "bvecs_zero")
        assert "1 have none" in issue.text
        assert "volume 4 (counted from 0; b = 1000)" in issue.text

    def test_volumes_left_out_by_their_b_value_need_no_direction(self, run_of):
        vectors = directions(8)
        vectors[[0, 7]] = 0
        run = run_of((*BVALS, 3000), files={BVEC: text_of(vectors.T)})
        assert check(run, ModelSettings(max_b=2000)).ok

    @pytest.mark.parametrize(("length", "severity"), [(1.05, "warning"), (0.5, "error")])
    def test_directions_off_unit_length_are_normalised_or_refused(self, run_of, length, severity):
        vectors = directions(len(BVALS))
        run = run_of(files={BVEC: text_of((vectors * length).T)})
        issue = the_issue(run, "bvecs_length")
        assert issue.severity == severity
        assert f"has length {length}" in issue.text
        acquisition, _ = read_acquisition(run)
        np.testing.assert_allclose(acquisition.bvecs.norm(dim=1), 1)

    def test_rounded_directions_pass_and_b0_may_have_none_or_nan(self, run_of):
        text = text_of(np.round(directions(len(BVALS)).T, 3))
        rows = [f"nan {row.split(' ', 1)[1]}" for row in text.splitlines()]
        run = run_of(files={BVEC: "\n".join(rows)})
        codes = {issue.code for issue in check(run, ModelSettings()).issues}
        assert codes == {"no_mask", "few_directions"}
        assert read_acquisition(run)[0].bvecs[0].tolist() == [0, 0, 0]

    def test_the_volumes_within_the_limits_are_selected_with_all_b0(self, run_of):
        run = run_of((0, 5, *[200] * 3, *[1000] * 6, *[3000] * 3))
        checked = check(run, ModelSettings(min_b=500, max_b=2000))
        assert checked.selected.tolist() == [True] * 2 + [False] * 3 + [True] * 6 + [False] * 3
        assert [shell["n_volumes"] for shell in checked.shells] == [2, 6]
        assert len(checked.acquisition) == 14

    def test_limits_that_leave_nothing_are_errors(self, run_of):
        run = run_of((*[0] * 8, *[1000] * 6))
        assert "limits leave none" in the_issue(run, "no_weighting", min_b=2000).text
        assert "At least 20 volumes" in the_issue(run, "too_few_volumes", min_volumes=20).text

    def test_the_b0_threshold_is_obeyed(self, run_of):
        run = run_of((45, *[1000] * 6))
        assert "smallest b-value" in the_issue(run, "no_b0", b0_threshold=10).text
        assert "--b0-threshold 45" in the_issue(run, "no_b0", b0_threshold=10).hint
        assert check(run, ModelSettings(b0_threshold=50)).ok

    def test_echo_times_per_volume_become_a_column_and_split_shells(self, run_of):
        times = [0.06, 0.06, 0.06, 0.06, 0.09, 0.09, 0.09]
        run = run_of(sidecar={"EchoTime": times})
        checked = check(run, ModelSettings())
        assert checked.acquisition.echo_times.tolist() == times
        assert [shell["echo_time"] for shell in checked.shells] == pytest.approx(
            [0.06, 0.06, 0.09]
        )

    def test_echo_times_of_another_number_are_an_error(self, run_of):
        run = run_of(sidecar={"EchoTime": [0.06, 0.09]})
        assert "lists 2 for 7 b-values" in the_issue(run, "gradients").text

    def test_grid_sampling_is_mentioned_but_many_low_b_values_are_not(self, run_of):
        grid = [0, *(b for b in range(500, 6000, 500) for _ in range(4))]
        assert "like a grid (DSI)" in the_issue(run_of(grid), "not_shelled").text

    def test_perfusion_sampling_is_no_grid(self, run_of):
        run = run_of([0, 10, 20, 30, 50, 80, 100, 150, 200, 300, 400, 500, 600, 700, 800])
        assert [issue.code for issue in check(run, ModelSettings()).issues] == ["no_mask"]


class TestHeaders:
    def test_a_single_volume_is_no_series(self, run_of):
        run = run_of(files={IMAGE: np.ones((3, 4, 2), "i2")})
        assert "has the shape (3, 4, 2)" in the_issue(run, "not_a_series").text

    def test_an_image_without_orientation_is_mentioned(self, run_of):
        run = run_of()
        image = nb.load(run.image)
        bare = nb.Nifti1Image(np.asarray(image.dataobj), None)
        nb.save(bare, run.image)
        assert the_issue(run, "no_orientation").severity == "warning"

    def test_a_damaged_image_is_an_error(self, run_of):
        run = run_of(files={IMAGE: "damaged"})
        checked = check(run, ModelSettings())
        assert checked.acquisition is None
        assert "header cannot be read" in the_issue(run, "image").text

    def test_a_mask_on_another_grid_is_an_error_before_anything_is_computed(self, tmp_path):
        mask = "derivatives/masks/sub-01/dwi/sub-01_desc-brain_mask.nii.gz"
        files = raw_dataset(STEM) | {
            "derivatives/masks/dataset_description.json": MASK_DATASET,
            mask: np.ones((3, 4, 3), "u1"),
            "given.nii.gz": np.ones((3, 4, 2), "u1"),
        }
        root = write_tree(tmp_path / "bids", files)
        (run,), _ = find_runs(RunSettings(root, tmp_path / "out", "participant"))
        assert f"{root / mask} has (3, 4, 3)" in the_issue(run, "mask").text
        checked = check(run, ModelSettings(mask=str(root / "given.nii.gz")))
        assert [issue.code for issue in checked.issues] == ["few_directions"]


@pytest.mark.real_data
def test_real_table_of_another_series_is_an_error(real_data, tmp_path):
    folder = real_data / "07_problem_cases" / "ds000114_mismatch_71bvals_20vols"
    (run,), _ = find_runs(RunSettings(folder, tmp_path, "participant"))
    issue = the_issue(run, "volume_count")
    assert "has 71 and" in issue.text
    assert "has 20 volumes" in issue.text


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("scheme", "codes"),
    [
        ("hcp_ya_288_measured_b5", []),
        ("abcd_103", []),
        ("designer_gnc_66", []),
        ("odd_philips_biobank_b0_as_0.001", ["few_directions"]),
        ("odd_b0_last", []),
        ("dsi_q5_279", ["not_shelled"]),
        ("ds004737_dsi", ["not_shelled"]),
        ("mdt_multishell_b6k", []),
    ],
)
def test_schemes_of_large_studies_pass(real_data, run_of, scheme, codes):
    stem = real_data.parent / "schemes" / scheme
    bvals = stem.with_name(f"{scheme}.bval").read_text()
    bvecs = stem.with_name(f"{scheme}.bvec").read_text()
    image = np.ones((2, 2, 2, len(bvals.split())), "i2")
    run = run_of(files={BVAL: bvals, BVEC: bvecs, IMAGE: image})
    checked = check(run, ModelSettings())
    assert [issue.code for issue in checked.issues if issue.code != "no_mask"] == codes
