"""Discovery of real diffusion series."""

import pytest

from bids_gmvae.config import ModelSettings, RunSettings
from bids_gmvae.exceptions import InputError
from bids_gmvae.modalities.dwi import check, find_runs

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(
    ("folder", "stems"),
    [
        ("01_cfin_multishell_brain", ["sub-cfin01"]),
        (
            "02_canon_singleshell_brain",
            [f"sub-canon01_{x}" for x in ("acq-headturned_dir-PA", "dir-AP", "dir-PA")],
        ),
        ("03_mrtrix_msmt_qsiprep_like", ["sub-msmt01_space-ACPC"]),
        ("04_leg_ivim_dti", ["sub-leg01"]),
        ("07_problem_cases/ds000114_truncated", ["sub-01_ses-test"]),
    ],
)
def test_real_series_are_found_with_masks_and_pass(real_data, tmp_path, folder, stems):
    runs, skipped = find_runs(RunSettings(real_data / folder, tmp_path, "participant"))
    assert [run.stem for run in runs] == stems
    assert skipped == []
    for run in runs:
        assert run.companions["mask"].is_file()
        # 02 has 12 directions; the truncated run has lost all but 13 of its 64.
        few = folder.startswith("02") or folder.endswith("truncated")
        codes = [issue.code for issue in check(run, ModelSettings()).issues]
        assert codes == (["few_directions"] if few else [])


def test_real_folder_without_bids_names_is_refused(real_data, tmp_path):
    folder = real_data / "07_problem_cases" / "no_bval_spinalcord"
    with pytest.raises(InputError, match="has no sub-<label> folder"):
        find_runs(RunSettings(folder, tmp_path, "participant"))
