import json
from dataclasses import replace
from pathlib import Path

import pytest

from bids_gmvae.io import sidecars
from bids_gmvae.io.derivatives import outputs
from bids_gmvae.io.validation import sidecar_problems
from bids_gmvae.signal_models import SIGNAL_MODELS
from tests.results import PROVENANCE, make_result, make_run


@pytest.mark.parametrize("signal_model", SIGNAL_MODELS)
@pytest.mark.parametrize("estimator", ["gmvae", "lsq"])
def test_every_sidecar_fits_the_schema(signal_model, estimator):
    for output in outputs(make_result(signal_model, estimator=estimator), PROVENANCE):
        problems = list(sidecar_problems(output.path.name, output.sidecar))
        assert problems == [], output.path.name


@pytest.mark.parametrize("signal_model", ["msdki", "ball_stick", "t2_adc"])
def test_every_map_bears_the_unit_of_its_values(signal_model):
    units = {
        "_desc-priorinfluence": "1",
        **dict.fromkeys(["_param-msd", "_param-md", "_param-adc"], "mm^2/s"),
        **dict.fromkeys(["_param-diffusivity", "_param-isodiffusivity"], "mm^2/s"),
        **dict.fromkeys(["_param-msk", "_param-vf", "_param-vector"], "1"),
        "_T2map": "s",
        **dict.fromkeys(["_param-s0", "_desc-noise"], "arbitrary"),
        **dict.fromkeys(["_desc-residual", "_probseg"], "1"),
    }
    for output in outputs(make_result(signal_model), PROVENANCE):
        if "Units" in output.sidecar:
            name = output.path.name
            assert output.sidecar["Units"] == next(units[part] for part in units if part in name)


def test_the_schema_refuses_what_bids_or_we_forbid():
    result = make_result()
    name = "sub-01_space-ACPC_model-msdki_param-msd_desc-mean_dwimap.nii.gz"
    good = next(
        output.sidecar for output in outputs(result, PROVENANCE) if "desc-mean" in output.path.name
    )
    assert not list(sidecar_problems(name, good))
    for wrong in (
        {**good, "PatientName": "x"},
        {**good, "OrientationEncoding": {"Type": "scalar"}},
        {**good, "Sources": ["/data/sub-01_dwi.nii.gz"]},
        {**good, "Model": {**good["Model"], "FitMethod": "ols"}},
        {key: value for key, value in good.items() if key != "SkullStripped"},
        {key: value for key, value in good.items() if key != "SpatialReference"},
    ):
        assert list(sidecar_problems(name, wrong))


def test_nothing_of_the_time_of_the_place_or_of_the_subject_is_told():
    def texts(seconds, root):
        result = make_result(run=make_run(root))
        result.info["fit"]["seconds"] = seconds
        return json.dumps([output.sidecar for output in outputs(result, PROVENANCE)])

    text = texts(1.0, Path("/data/qsiprep"))
    assert text == texts(99.0, Path("/mnt/elsewhere/qsiprep"))
    assert "/data" not in text
    assert "not to be copied" not in text


def test_samples_lie_along_the_axis_that_the_sidecar_names():
    result = make_result()
    samples = result.posterior.mean[..., None].expand(-1, -1, 5)
    drawn = replace(result, posterior=replace(result.posterior, samples=samples))
    found = [item for item in outputs(drawn, PROVENANCE) if "_desc-samples_" in item.path.name]
    assert len(found) == result.posterior.mean.shape[1]
    for output in found:
        assert output.data.shape == (*result.mask.shape, 5)
        assert output.sidecar["BootstrapAxis"] == 3
        assert not list(sidecar_problems(output.path.name, output.sidecar))
        unnamed = {key: value for key, value in output.sidecar.items() if key != "BootstrapAxis"}
        assert list(sidecar_problems(output.path.name, unnamed))


def test_raw_runs_in_their_own_space_need_no_reference():
    assert sidecars.spatial_reference(make_run(space=None, dataset="raw"), PROVENANCE) == {}


def test_the_reference_is_the_image_itself_where_there_is_no_other():
    run = make_run()
    alone = type(run)(**{**vars(run), "companions": {}})
    reference = sidecars.spatial_reference(alone, PROVENANCE)["SpatialReference"]
    assert reference.endswith("_desc-preproc_dwi.nii.gz")


def test_files_are_named_by_the_innermost_dataset():
    roots = {"raw": "/data", "qsiprep": "/data/derivatives/qsiprep"}
    path = "/data/derivatives/qsiprep/sub-1/dwi/a b+.nii.gz"
    assert sidecars.bids_uri(path, roots) == "bids:qsiprep:sub-1/dwi/a%20b+.nii.gz"
    assert sidecars.bids_uri("/elsewhere/mask.nii.gz", roots) is None


def test_the_preferred_gradient_table_is_the_source():
    run = make_run()
    table = run.image.with_name("sub-01_ses-1_space-ACPC_desc-preproc_dwi.b")
    run = type(run)(**{**vars(run), "companions": {**run.companions, "b": table}})
    sidecar = sidecars.image_sidecar(
        make_result(run=run), PROVENANCE, description="x", mask="sub-01/m.nii.gz"
    )
    assert [uri.rsplit(".", 1)[1] for uri in sidecar["Sources"]] == ["gz", "bval", "b", "gz"]
    assert sidecar["Sources"][-1] == "bids::sub-01/m.nii.gz"


def test_sloppy_results_say_so_everywhere():
    provenance = {**PROVENANCE, "sloppy": True}
    assert all(o.sidecar["Sloppy"] is True for o in outputs(make_result(), provenance))
    assert not any("Sloppy" in o.sidecar for o in outputs(make_result(), PROVENANCE))


def test_the_maps_of_the_voxelwise_fit_describe_that_fit():
    by_desc = {
        output.path.name.split("_desc-")[1]: output.sidecar["Model"]["Parameters"]
        for output in outputs(make_result(), PROVENANCE)
        if "param-msd" in output.path.name
    }
    assert by_desc["lsq_dwimap.nii.gz"]["Estimator"] == "lsq"
    assert "ELBO" not in by_desc["lsq_dwimap.nii.gz"]
    assert by_desc["mean_dwimap.nii.gz"]["Estimator"] == "gmvae"
    assert by_desc["mean_dwimap.nii.gz"]["ELBO"] == -20.1235
    assert by_desc["mean_dwimap.nii.gz"]["Components"] == 3


def test_a_reused_fit_keeps_its_seed_but_the_data_settings_are_of_this_call():
    result = make_result()
    result.info["fit"]["settings"] |= {"random_seed": 42, "min_b": 0.0, "b0_threshold": 50.0}
    own = {**PROVENANCE["settings"], "random_seed": 7, "min_b": 200.0, "b0_threshold": 100.0}
    model = sidecars.model_description(result, {**PROVENANCE, "settings": own})
    found = model["Parameters"]
    assert (found["Seed"], found["MinimumB"], found["B0Threshold"]) == (42, 200.0, 100.0)
