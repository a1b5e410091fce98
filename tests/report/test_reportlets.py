import dataclasses
import json

import numpy as np
import pytest
import torch

from bids_gmvae.report import style
from bids_gmvae.report.facts import mixture, overall
from bids_gmvae.report.panels import panels
from bids_gmvae.report.reportlets import (
    describe,
    figures_dir,
    write_reportlets,
    write_unmapped,
)
from tests.report.phantoms import make_result

SMALL = (8, 9, 2)


def report_of(out_dir, subject="01"):
    (path,) = figures_dir(out_dir, subject).glob("*_desc-report_dwi.json")
    return json.loads(path.read_text())


def names(result):
    with style.drawing():
        return {panel.name for panel in panels(result)}


def replaced(result, **tensors):
    posterior = dataclasses.replace(result.posterior, **tensors)
    return dataclasses.replace(result, posterior=posterior)


def test_every_figure_says_how_to_read_it_and_exists(mapped):
    shown = report_of(mapped)["panels"]
    assert len(shown) > 8
    for panel in shown:
        assert len(panel["how_to_read"]) > 20
        assert panel["alt"]
        assert (figures_dir(mapped, "01") / panel["file"]).stat().st_size > 0


def test_figures_are_named_after_the_run_and_the_model(mapped):
    for path in figures_dir(mapped, "01").iterdir():
        assert path.name.startswith("sub-01_model-msdki_desc-")
        assert path.stem.endswith("_dwi")


def test_the_same_result_gives_the_same_bytes(mapped, tmp_path):
    for path in write_reportlets(make_result(shape=(10, 12, 3)), tmp_path):
        assert path.read_bytes() == (mapped / path.relative_to(tmp_path)).read_bytes()


def test_without_a_prior_there_is_no_panel_about_it():
    result = make_result(shape=SMALL, estimator="lsq")
    assert not names(result) & {"unexpected", "components", "training"}
    assert {"msdmaps", "mskmaps", "status"} <= names(result)
    assert all(row["influence"] is None for row in describe(result)["parameters"])


def test_a_directional_model_shows_orientation_and_its_derived_parameter():
    assert {"orientation", "mdmaps", "vfmaps"} <= names(
        make_result(shape=SMALL, model="ball_stick")
    )


def test_a_parameter_with_a_suffix_of_its_own_gets_maps():
    result = make_result(shape=SMALL, model="t2_adc")
    assert "t2mapmaps" in names(result)
    row = describe(result)["parameters"][0]
    assert row["unit"] == "ms"
    assert 60 < row["median"] < 100


def test_a_single_slice_is_drawn():
    assert "msdmaps" in names(make_result(shape=(12, 12, 1)))


def test_a_run_in_which_nothing_was_fitted_is_still_drawn():
    result = make_result(shape=SMALL)
    nothing = torch.full_like(result.posterior.mean, torch.nan)
    result = replaced(result, mean=nothing, std=nothing)
    assert "scatter" in names(result)
    assert describe(result)["parameters"][0]["median"] is None


def test_summaries_are_over_the_voxels_and_in_the_unit_that_is_shown():
    result = make_result(shape=SMALL)
    expected = np.nanmedian(result.posterior.mean[:, 0].numpy()) * 1e3
    row = describe(result)["parameters"][0]
    assert row["median"] == pytest.approx(expected, rel=1e-5)
    assert row["unit"] == "10⁻³\N{NO-BREAK SPACE}mm²/s"


def test_the_status_counts_add_up_to_the_given_mask():
    result = make_result(shape=SMALL)
    total = sum(row["count"] for row in describe(result)["status"])
    assert total == result.mask.sum() + result.removed.sum()


def test_many_failed_voxels_become_a_warning():
    issues = describe(make_result(shape=SMALL, failed=20))["issues"]
    assert any("could not be fitted" in issue["text"] for issue in issues)


def test_a_shell_that_the_model_misses_is_named():
    result = make_result(shape=SMALL)
    shell_residual = result.posterior.shell_residual.clone()
    shell_residual[:, 2] = 2.5
    issues = describe(replaced(result, shell_residual=shell_residual))["issues"]
    assert any("b = 2000" in issue["text"] for issue in issues)


@pytest.mark.parametrize(("share", "told"), [(0.014, False), (0.2, True), (1.0, True)])
def test_residuals_speak_for_a_run_only_if_enough_voxels_have_them(share, told):
    result = make_result()
    residual = torch.full_like(result.posterior.residual, torch.nan)
    residual[: round(share * len(residual))] = 4.0
    by_shell = result.posterior.shell_residual.clone()
    by_shell[:, 2] = residual
    issues = describe(replaced(result, residual=residual, shell_residual=by_shell))["issues"]
    assert any("Residuals are 4.00 times" in issue["text"] for issue in issues) is told
    assert any("b = 2000" in issue["text"] for issue in issues) is told


def test_a_parameter_that_the_prior_decides_is_named():
    result = make_result(shape=SMALL)
    influence = result.posterior.prior_influence.clone()
    influence[:, 1] = 0.8
    issues = describe(replaced(result, prior_influence=influence))["issues"]
    (issue,) = [item for item in issues if "80%" in item["text"]]
    assert "mean signal kurtosis (80%)" in issue["text"]
    assert "diffusivity" not in issue["text"]


def test_voxels_without_an_estimate_belong_to_no_component():
    result = make_result(shape=SMALL)
    responsibilities = result.posterior.responsibilities.clone()
    responsibilities[:10] = torch.nan
    found = mixture(replaced(result, responsibilities=responsibilities))
    assert set(found.winner[:10]) == {-1}
    assert found.shares.sum() == pytest.approx(1)


def test_the_residual_of_pure_noise_is_one_however_few_the_measurements():
    noise = np.abs(np.random.default_rng(0).normal(size=100_000))
    assert overall(noise) == pytest.approx(1, abs=0.01)


def test_folders_of_the_user_do_not_reach_the_report():
    result = make_result(shape=SMALL)
    result.info["fit"]["settings"]["mask"] = "/home/someone/secret/mask.nii.gz"
    assert "secret" not in json.dumps(describe(result))


def test_a_sloppy_run_is_a_warning():
    result = make_result(shape=SMALL)
    (issue,) = [
        item for item in describe(result, sloppy=True)["issues"] if "sloppy" in item["text"]
    ]
    assert issue["severity"] == "warning"
    assert "sloppy" not in json.dumps(describe(result)["issues"])


def test_what_qsiprep_made_is_told_by_its_dataset_not_by_its_name(tmp_path):
    result = make_result(shape=SMALL)
    run = dataclasses.replace(result.run, dataset="mine", dataset_root=tmp_path)
    result = dataclasses.replace(result, run=run)
    assert not describe(result)["preprocessed"]
    (tmp_path / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "QSIPrep"}]}')
    assert describe(result)["preprocessed"]


def test_a_run_that_was_not_mapped_leaves_its_reason(tmp_path):
    issue = {"severity": "error", "code": "b0", "text": "There is no b0.", "hint": "Add one."}
    write_unmapped(make_result(shape=SMALL).run, [issue], tmp_path)
    report = report_of(tmp_path)
    assert report["mapped"] is False
    assert report["issues"] == [issue]
