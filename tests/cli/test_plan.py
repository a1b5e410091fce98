"""What would be done, found out from trees of tiny files."""

import json
from dataclasses import replace

import nibabel as nb
import numpy as np
import pytest
import torch

from bids_gmvae.cli.plan import describe, make_plan, require_runs, to_json
from bids_gmvae.config import ComputeSettings, ModelSettings, RunSettings, SelectionSettings
from bids_gmvae.estimators import ESTIMATORS
from bids_gmvae.estimators.base import Measurements, no_progress
from bids_gmvae.estimators.saved_prior import identity, prior_content
from bids_gmvae.exceptions import DeviceError, InputError, NothingEligibleError
from bids_gmvae.interfaces.estimation import fit_runs
from bids_gmvae.io.derivatives import write_result
from bids_gmvae.io.measured import MeasuredRun
from bids_gmvae.modalities.dwi import check
from bids_gmvae.priors import GaussianMixturePrior
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.voxels import Grid
from bids_gmvae.workflows.plan import LeftOut, Plan
from tests.bids_tree import RAW, text_of, write_tree
from tests.tiny import BVALS, SHAPE, tiny_dataset, tiny_run


def settings_for(root, **model):
    settings = RunSettings(root, root.parent / "out", "participant")
    return replace(
        settings,
        model=ModelSettings(estimator="lsq", **model),
        compute=ComputeSettings(device="cpu"),
    )


def groups_of(plan):
    return [[p.run.stem for p in plan.runs if p.group == g] for g in {p.group for p in plan.runs}]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two runs that agree, one of another session, and one with other b-values."""
    root = tmp_path_factory.mktemp("study")
    files = tiny_run("sub-01/ses-a/dwi/sub-01_ses-a_run-3", 9, BVALS * 1.5)
    return tiny_dataset(
        root,
        "sub-01/ses-a/dwi/sub-01_ses-a_run-1",
        "sub-01/ses-a/dwi/sub-01_ses-a_run-2",
        "sub-01/ses-b/dwi/sub-01_ses-b",
        **files,
    )


def test_runs_of_a_session_are_fitted_together_if_their_shells_agree(study):
    plan = make_plan(settings_for(study))
    assert sorted(groups_of(plan)) == [
        ["sub-01_ses-a_run-1", "sub-01_ses-a_run-2"],
        ["sub-01_ses-a_run-3"],
        ["sub-01_ses-b"],
    ]


@pytest.mark.parametrize(("how", "n_groups"), [("separate", 4), ("joint", 1)])
def test_runs_are_fitted_together_as_asked_for(study, how, n_groups):
    plan = make_plan(settings_for(study, runs=how))
    assert len(groups_of(plan)) == n_groups


def test_each_model_that_is_asked_for_is_planned(study):
    plan = make_plan(settings_for(study, signal_model=("msdki", "ball_stick")))
    assert [planned.signal_model for planned in plan.runs[:2]] == ["msdki", "ball_stick"]
    assert len(plan.runs) == 8


def test_a_plan_is_plain_and_keeps_persons_out(study):
    plan = make_plan(settings_for(study))
    assert plan.runs[0].run.metadata == {"EchoTime": 0.08}
    assert json.loads(json.dumps(plan.runs[0].run.to_dict()))["entities"]["session"] == "a"


def test_the_mask_beside_the_data_is_chosen(study):
    plan = make_plan(settings_for(study))
    assert plan.runs[0].mask.endswith("sub-01_ses-a_run-1_desc-brain_mask.nii.gz")
    assert plan.runs[2].mask == "median_otsu"


def test_the_json_plan_has_its_keys(study):
    content = json.loads(to_json(make_plan(settings_for(study))))
    assert content["participants"] == ["01"]
    run = content["runs"][0]
    assert set(run) == {
        "participant", "session", "name", "image", "dataset", "n_volumes", "shells", "gradients",
        "mask", "signal_model", "reason", "estimator", "prior", "group", "issues", "outputs",
    }  # fmt: skip
    assert run["n_volumes"] == len(BVALS)
    assert [shell["n_volumes"] for shell in run["shells"]] == [4, 8, 8]
    assert (
        "sub-01/ses-a/dwi/sub-01_ses-a_run-1_model-msdki_param-msd_desc-mean_dwimap.nii.gz"
        in run["outputs"]
    )


@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_promised_is_what_is_written(study, estimator, reused, tmp_path):
    model = ModelSettings(
        signal_model=("ball_stick",), estimator=estimator, n_components=2, n_epochs=1,
        latent_size=4, posterior_samples=2 if ESTIMATORS[estimator].draws else 0,
    )  # fmt: skip
    settings = replace(settings_for(study), model=model)
    planned = make_plan(settings).runs[3]
    checked = check(planned.run, model)
    image = nb.load(planned.run.image)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:5, 2:4] = True
    rows = torch.from_numpy(image.get_fdata(dtype=np.float32)[mask])
    measurements = Measurements(rows, torch.full((len(rows),), 30.0), checked.acquisition)
    measured = MeasuredRun(
        planned.run, Grid.of(image), mask, ~mask, np.ones(SHAPE, np.float32), measurements,
        {"shells": checked.shells},
    )  # fmt: skip
    fit, (result,) = fit_runs(
        [measured], get_signal_model("ball_stick"), [""], model, estimator=estimator,
        device="cpu", progress=no_progress,
    )  # fmt: skip
    if reused:
        fit.save(tmp_path / "fit.pt")
        other = replace(model, reuse_fit=tmp_path / "fit.pt", estimator="gmvae", n_components=10)
        # A network suits runs of its own scheme only.
        (planned,) = (
            item
            for item in make_plan(replace(settings, model=other)).runs
            if item.run.stem == planned.run.stem
        )
    written = write_result(result, tmp_path / "out", provenance={})
    images = {path.relative_to(tmp_path / "out").as_posix() for path in written}
    content = json.loads(to_json(Plan("cpu", (planned,))))
    promised = content["runs"][0]["outputs"]
    assert sorted(promised) == sorted(name for name in images if name.endswith(".nii.gz"))
    assert "_desc-mean_" in promised[0]


def test_a_given_prior_decides_about_model_and_components(study, tmp_path):
    nothing = torch.zeros(3, dtype=torch.float64)
    prior = GaussianMixturePrior.around(
        torch.eye(3, dtype=torch.float64)[:2], spread=0.3, lower=nothing - 3, upper=nothing + 3
    )
    path = tmp_path / "prior.json"
    path.write_text(json.dumps(prior_content(prior, get_signal_model("ball_stick"))))
    model = ModelSettings(prior_from=path)
    plan = make_plan(replace(settings_for(study), model=model))
    assert {planned.signal_model for planned in plan.runs} == {"ball_stick"}
    assert plan.model.n_components == 2
    assert plan.runs[0].prior == identity(path)
    assert sum("_label-C" in name for name in plan.runs[0].outputs) == 2
    assert f"prior:      prior.json (SHA-256 {identity(path)['SHA256'][:12]}…)" in describe(plan)
    with pytest.raises(InputError, match=r"for the signal model ball_stick, but .* msdki"):
        make_plan(replace(settings_for(study), model=replace(model, signal_model=("msdki",))))


def test_the_readable_plan_names_shells_mask_model_and_why(study):
    text = describe(make_plan(settings_for(study)))
    assert "4 x b0, 8 x 1000, 8 x 2000 s/mm^2" in text
    assert "msdki (chosen for two or more shells)" in text
    assert "fitted with: sub-01_ses-a_run-2" in text
    assert "4 runs of 1 participant would be mapped." in text


def test_the_readable_plan_folds_names_that_differ_in_one_word(study):
    text = describe(make_plan(replace(settings_for(study), model=ModelSettings(n_components=3))))
    stem = "sub-01/ses-b/dwi/sub-01_ses-b_model-msdki_"
    assert f"{stem}param-msk_desc-{{mean,std,priorinfluence,lsq}}_dwimap.nii.gz\n" in text
    assert f"{stem}label-{{C1,C2,C3}}_desc-component_probseg.nii.gz\n" in text
    assert f"{stem}desc-status_dseg.nii.gz\n" in text


def test_the_readable_plan_does_not_mix_participants(tmp_path):
    root = tiny_dataset(tmp_path / "bids", "sub-01/dwi/sub-01_run-1", "sub-02/dwi/sub-02_run-1")
    assert "fitted with" not in describe(make_plan(settings_for(root)))


def test_a_broken_run_is_left_out_with_the_reason(tmp_path):
    root = tiny_dataset(
        tmp_path / "bids",
        "sub-01/dwi/sub-01",
        **tiny_run("sub-02/dwi/sub-02", 1) | {"sub-02/dwi/sub-02_dwi.bval": text_of(BVALS[:-1])},
    )
    plan = make_plan(settings_for(root))
    assert [planned.run.subject for planned in plan.runs] == ["01"]
    (broken,) = [item for item in plan.left_out if item.invalid]
    assert broken.run is not None
    assert "19" in broken.reason
    assert "Cannot be mapped:" in describe(plan)
    require_runs(plan)


@pytest.mark.parametrize("there", [True, False])
def test_an_unusable_noise_map_is_told_before_any_work(study, there, tmp_path):
    path = tmp_path / "sigma.nii.gz"
    if there:
        nb.save(nb.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), path)
    plan = make_plan(settings_for(study, noise_map=str(path)))
    reason = "must have the grid of the image" if there else "does not exist"
    with pytest.raises(InputError, match=f"(?s)noise map .*{reason}"):
        require_runs(plan)


def test_b0s_of_reversed_phase_encoding_are_skipped_and_no_failure(tmp_path):
    stem = "sub-01/dwi/sub-01_dir-PA"
    root = tiny_dataset(
        tmp_path / "bids", "sub-01/dwi/sub-01_dir-AP", **tiny_run(stem, 1, np.zeros(3))
    )
    plan = make_plan(settings_for(root))
    assert [planned.run.stem for planned in plan.runs] == ["sub-01_dir-AP"]
    (left,) = plan.left_out
    assert not left.invalid
    assert "largest b-value" in left.reason
    with pytest.raises(NothingEligibleError, match="largest b-value"):
        require_runs(replace(plan, runs=()))


def test_a_model_that_the_data_do_not_support_is_left_out_with_the_reason(tmp_path):
    one_shell = np.where(BVALS > 0, 1000, 0)
    files = tiny_run("sub-01/dwi/sub-01", 0, one_shell)
    root = write_tree(tmp_path / "bids", {"dataset_description.json": RAW} | files)
    plan = make_plan(settings_for(root, signal_model=("msdki",)))
    with pytest.raises(InputError, match="at least two shells"):
        require_runs(plan)


def test_an_unknown_participant_is_named(study):
    settings = replace(settings_for(study), selection=SelectionSettings(participant_label=("99",)))
    with pytest.raises(InputError, match="99"):
        make_plan(settings)


def test_one_broken_run_is_enough_if_every_run_is_required(study):
    plan = make_plan(settings_for(study))
    require_runs(plan, every=True)
    broken = replace(plan, left_out=(LeftOut("sub-9_dwi.nii.gz", "cut off", invalid=True),))
    require_runs(broken)
    with pytest.raises(InputError, match=r"some runs.*\n  sub-9_dwi.*cut off"):
        require_runs(broken, every=True)


def test_nothing_eligible_lists_the_reasons():
    plan = Plan("cpu", left_out=(LeftOut("/data/sub-01", "no diffusion series"),))
    with pytest.raises(NothingEligibleError, match="no diffusion series"):
        require_runs(plan)


def test_a_missing_device_is_told_before_any_work(study):
    settings = replace(settings_for(study), compute=ComputeSettings(device="cuda:99"))
    with pytest.raises(DeviceError, match="--gpus all"):
        make_plan(settings)
