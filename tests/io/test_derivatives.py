import gzip
import json
from dataclasses import replace

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.io import derivatives
from bids_gmvae.io.atomic import read_tsv
from bids_gmvae.io.dataset import initialise, validate, write_manifest
from bids_gmvae.io.derivatives import map_path, parameter_path, status_volume, write_result
from bids_gmvae.io.result import RunResult
from bids_gmvae.posterior import FAILED, Status
from bids_gmvae.signal_models import SIGNAL_MODELS, get_signal_model
from bids_gmvae.voxels import Grid
from tests.results import AFFINE, PROVENANCE, make_result, make_run
from tests.validator import bids_errors

STEM = "sub-01/ses-1/dwi/sub-01_ses-1_space-ACPC"


def names(paths, out_dir):
    return {path.relative_to(out_dir).as_posix() for path in paths}


def load(out_dir, name):
    return nb.load(out_dir / f"{STEM}_{name}.nii.gz")


def values(out_dir, name):
    return np.asanyarray(load(out_dir, name).dataobj)


def test_names_are_those_of_the_contract(tmp_path):
    written = names(write_result(make_result(), tmp_path, provenance=PROVENANCE), tmp_path)
    maps = [
        f"model-msdki_param-{parameter}_desc-{statistic}_dwimap"
        for parameter in ("msd", "msk")
        for statistic in ("mean", "std", "priorinfluence", "lsq")
    ]
    maps += [f"model-msdki_label-C{k}_desc-component_probseg" for k in (1, 2, 3)]
    maps += [
        "model-msdki_param-s0_desc-mean_dwimap",
        "model-msdki_desc-unexpected_probseg",
        "model-msdki_desc-residual_dwimap",
        "model-msdki_desc-noise_dwimap",
        "model-msdki_desc-status_dseg",
        "desc-gmvae_mask",
    ]
    expected = {f"{STEM}_{name}{end}" for name in maps for end in (".nii.gz", ".json")}
    expected |= {f"{STEM}_model-msdki_desc-status_dseg.tsv"}
    expected |= {f"{STEM}_model-msdki_desc-qc{end}" for end in (".json", ".tsv")}
    assert written == expected


def test_t2_maps_bear_the_suffix_that_bids_requires(tmp_path):
    write_result(make_result("t2_adc"), tmp_path, provenance=PROVENANCE)
    for desc in ("mean", "std", "priorinfluence", "lsq"):
        assert load(tmp_path, f"desc-{desc}_T2map").get_data_dtype() == np.float32
    sidecar = json.loads((tmp_path / f"{STEM}_desc-mean_T2map.json").read_text())
    assert sidecar["Units"] == "s"
    assert 0.01 < np.nanmedian(values(tmp_path, "desc-mean_T2map")[make_result().mask]) < 0.5


def test_orientations_are_four_dimensional_with_their_encoding(tmp_path):
    result = make_result("ball_stick")
    write_result(result, tmp_path, provenance=PROVENANCE)
    vectors = values(tmp_path, "model-bs_param-vector_desc-mean_dwimap")
    assert vectors.shape == (*result.grid.shape, 3)
    good = status_volume(result) == Status.FITTED
    np.testing.assert_allclose(np.linalg.norm(vectors[good], axis=1), 1, atol=1e-6)
    path = tmp_path / f"{STEM}_model-bs_param-vector_desc-mean_dwimap.json"
    assert json.loads(path.read_text())["OrientationEncoding"]["Reference"] == "ijk"


def test_values_lie_where_their_voxels_are(tmp_path):
    result = make_result()
    write_result(result, tmp_path, provenance=PROVENANCE)
    written = values(tmp_path, "model-msdki_param-msk_desc-mean_dwimap")
    failed = np.isin(result.posterior.status, FAILED)
    expected = result.posterior.mean[:, 1].numpy()
    np.testing.assert_array_equal(written[result.mask][~failed], expected[~failed])


def test_failed_voxels_are_nan_and_the_outside_is_zero(tmp_path):
    result = make_result()
    write_result(result, tmp_path, provenance=PROVENANCE)
    failed = np.isin(status_volume(result), FAILED)
    assert failed.any()
    for name in (
        "model-msdki_param-msd_desc-mean_dwimap",
        "model-msdki_param-msd_desc-priorinfluence_dwimap",
        "model-msdki_label-C2_desc-component_probseg",
        "model-msdki_desc-residual_dwimap",
    ):
        volume = values(tmp_path, name)
        np.testing.assert_array_equal(np.isnan(volume), failed)
        assert not volume[~result.mask].any()
    # The noise is known whether or not a fit succeeds.
    assert np.isfinite(values(tmp_path, "model-msdki_desc-noise_dwimap")).all()


def test_the_status_shows_removed_voxels_and_its_table_names_every_code(tmp_path):
    result = make_result()
    write_result(result, tmp_path, provenance=PROVENANCE)
    status = values(tmp_path, "model-msdki_desc-status_dseg")
    assert status.dtype == np.uint8
    np.testing.assert_array_equal(status == Status.NO_SIGNAL_SUPPORT, result.removed)
    rows = read_tsv(tmp_path / f"{STEM}_model-msdki_desc-status_dseg.tsv")
    assert [int(row["index"]) for row in rows] == [int(code) for code in Status]
    assert list(rows[0]) == ["index", "name", "description"]


RAS = AFFINE @ np.diag([-1, 1, 1, 1])
SHEARED = AFFINE + np.array([[0, 0.3, 0, 0], [0] * 4, [0] * 4, [0] * 4])


@pytest.mark.parametrize(
    ("affine", "codes"),
    [
        pytest.param(AFFINE, (1, 2), id="left-handed"),
        pytest.param(RAS, (1, 1), id="right-handed"),
        pytest.param(SHEARED, (0, 2), id="sform only, sheared"),
        pytest.param(RAS, (3, 0), id="qform only"),
    ],
)
def test_geometry_is_that_of_the_source(tmp_path, affine, codes):
    source = nb.Nifti1Image(np.zeros((5, 4, 6, 7), np.int16), affine)
    source.set_qform(affine, code=codes[0], strip_shears=True)
    source.set_sform(affine, code=codes[1])
    nb.save(source, tmp_path / "source.nii.gz")
    source = nb.load(tmp_path / "source.nii.gz")
    write_result(make_result("ball_stick", grid=Grid.of(source)), tmp_path, provenance=PROVENANCE)
    written = sorted(tmp_path.glob("sub-01/**/*.nii.gz"))
    assert written
    for path in written:
        image = nb.load(path)
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
        for field in ("qform_code", "sform_code"):
            assert int(image.header[field]) == int(source.header[field])
        np.testing.assert_allclose(
            image.header.get_zooms()[:3], source.header.get_zooms()[:3], rtol=1e-5
        )


def test_a_qform_that_differs_from_the_sform_is_kept_on_the_whole_way(tmp_path):
    source = nb.Nifti1Image(np.zeros((5, 4, 6, 7), np.int16), AFFINE)
    elsewhere = nb.affines.from_matvec(RAS[:3, :3], (1.0, 2.0, 3.0))
    source.set_qform(elsewhere, code=1)
    source.set_sform(AFFINE, code=2)
    nb.save(source, tmp_path / "source.nii.gz")
    result = make_result("ball_stick", grid=Grid.of(nb.load(tmp_path / "source.nii.gz")))
    result.save(tmp_path / "result.pt")
    write_result(RunResult.load(tmp_path / "result.pt"), tmp_path, provenance=PROVENANCE)
    written = sorted(tmp_path.glob("sub-01/**/*.nii.gz"))
    assert written
    for path in written:
        image = nb.load(path)
        np.testing.assert_allclose(image.get_sform(), AFFINE, atol=1e-5)
        np.testing.assert_allclose(image.get_qform(), source.get_qform(), atol=1e-5)


@pytest.mark.parametrize("name", ["desc-gmvae_mask", "model-msdki_param-msd_desc-mean_dwimap"])
def test_values_are_stored_unscaled(tmp_path, name):
    write_result(make_result(), tmp_path, provenance=PROVENANCE)
    header = gzip.decompress((tmp_path / f"{STEM}_{name}.nii.gz").read_bytes())[:348]
    slope, intercept = np.frombuffer(header, "<f4", count=2, offset=112)
    assert (slope, intercept) == (1, 0)


def test_writing_again_gives_the_same_bytes_and_touches_nothing_else(tmp_path):
    first = write_result(make_result(), tmp_path, provenance=PROVENANCE)
    before = {path: path.read_bytes() for path in first}
    # Only the time that the fit took differs.
    again = make_result()
    again.info["fit"]["seconds"] = 12345.6
    assert write_result(again, tmp_path, provenance=PROVENANCE) == first
    assert {path: path.read_bytes() for path in first} == before


def test_the_quality_file_says_that_all_the_rest_is_of_one_call(tmp_path, monkeypatch):
    first = write_result(make_result(n_components=4), tmp_path, provenance=PROVENANCE)
    complete = {path: path.read_bytes() for path in first}
    (quality,) = [path for path in first if path.name.endswith("_desc-qc.json")]
    others = []

    def note(function):
        def write(path, *args):
            others.append((path, quality.exists()))
            return function(path, *args)

        return write

    with monkeypatch.context() as patch:
        for name in ("write_json", "write_image", "write_tsv", "write_text"):
            patch.setattr(derivatives, name, note(getattr(derivatives, name)))
        write_result(make_result(n_components=2), tmp_path, provenance=PROVENANCE)
    assert others[-1][0] == quality
    assert not any(there for _, there in others)
    # Interrupted and repeated, a call ends with the same bytes.
    write_result(make_result(n_components=4), tmp_path, provenance=PROVENANCE)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*_*.*")} == complete


def test_the_quality_file_comes_after_maps_of_an_earlier_call_are_gone(tmp_path, monkeypatch):
    write_result(make_result(n_components=4), tmp_path, provenance=PROVENANCE)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(derivatives, "_remove_leftovers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_result(make_result(n_components=2), tmp_path, provenance=PROVENANCE)
    assert not list(tmp_path.rglob("*_desc-qc.json"))


def test_the_quality_file_stays_while_the_same_is_written_again(tmp_path, monkeypatch):
    write_result(make_result(), tmp_path, provenance=PROVENANCE)
    (quality,) = tmp_path.rglob("*_desc-qc.json")
    before = quality.stat().st_ino, quality.read_bytes()

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(derivatives, "write_tsv", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_result(make_result(), tmp_path, provenance=PROVENANCE)
    assert (quality.stat().st_ino, quality.read_bytes()) == before


def test_what_an_earlier_call_left_behind_is_removed(tmp_path):
    write_result(make_result(n_components=4), tmp_path, provenance=PROVENANCE)
    folder = (tmp_path / STEM).parent
    others = [
        folder / "sub-01_ses-1_space-ACPC_model-msdki_desc-gmvae_fit.pt",
        folder / "sub-01_ses-1_space-ACPC_model-bs_param-vf_desc-mean_dwimap.nii.gz",
        folder / "sub-01_ses-1_run-2_space-ACPC_model-msdki_desc-noise_dwimap.nii.gz",
    ]
    for path in others:
        path.write_bytes(b"")
    write_result(make_result(n_components=2), tmp_path, provenance=PROVENANCE)
    assert not list(folder.glob("*label-C[34]*"))
    assert len(list(folder.glob("*label-C[12]*"))) == 4
    assert all(path.exists() for path in others)


def test_maps_with_a_suffix_of_their_own_leave_nothing_behind_either(tmp_path):
    write_result(make_result("t2_adc"), tmp_path, provenance=PROVENANCE)
    write_result(make_result("t2_adc", estimator="lsq"), tmp_path, provenance=PROVENANCE)
    found = {path.name.split("_desc-")[1] for path in tmp_path.rglob("*_T2map.nii.gz")}
    assert found == {"mean_T2map.nii.gz", "std_T2map.nii.gz"}


def test_deviations_that_an_estimator_does_not_know_have_no_map(tmp_path):
    result = make_result("ball_stick", estimator="lsq")
    derived = {p: (mean, sd * np.nan) for p, (mean, sd) in result.posterior.derived.items()}
    result = replace(result, posterior=replace(result.posterior, derived=derived))
    text = " ".join(names(write_result(result, tmp_path, provenance=PROVENANCE), tmp_path))
    assert "param-md_desc-mean_dwimap" in text
    assert "param-md_desc-std" not in text
    assert "param-vf_desc-std" in text


def test_the_voxelwise_estimator_claims_no_prior(tmp_path):
    written = write_result(make_result(estimator="lsq"), tmp_path, provenance=PROVENANCE)
    text = " ".join(names(written, tmp_path))
    for absent in ("priorinfluence", "probseg", "desc-lsq"):
        assert absent not in text
    sidecar = json.loads(
        (tmp_path / f"{STEM}_model-msdki_param-msd_desc-std_dwimap.json").read_text()
    )
    assert "standard error" in sidecar["Description"]
    assert "Components" not in sidecar["Model"]["Parameters"]


@pytest.mark.parametrize(
    ("stem", "space", "expected"),
    [
        ("sub-01_space-ACPC_desc-preproc", "MNI", "sub-01_space-MNI_model-m_res-2_desc-d"),
        ("sub-01_dir-AP_run-1", "MNI", "sub-01_dir-AP_run-1_space-MNI_model-m_res-2_desc-d"),
        ("sub-01_run-1_chunk-2", "MNI", "sub-01_run-1_space-MNI_chunk-2_model-m_res-2_desc-d"),
    ],
)
def test_a_standard_space_replaces_the_space_of_the_run(tmp_path, stem, space, expected):
    run = make_run(session=None)
    run = type(run)(**{**vars(run), "files": (tmp_path / f"{stem}_dwi.nii.gz",)})
    path = map_path(run, suffix="dwimap", model="m", desc="d", space=space, resolution="2")
    assert path.as_posix() == f"sub-01/dwi/{expected}_dwimap.nii.gz"


def test_no_two_parameters_share_a_file():
    run = make_run()
    for name in SIGNAL_MODELS:
        model = get_signal_model(name)
        paths = [parameter_path(run, model.label, p, "mean") for p in model.parameters]
        assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("space", ["ACPC", None])
def test_the_bids_validator_finds_no_error(tmp_path, space):
    out_dir = tmp_path / "bids_gmvae"
    for name in SIGNAL_MODELS:
        result = make_result(name, run=make_run(space=space, dataset="input"))
        write_result(result, out_dir, provenance=PROVENANCE)
    (out_dir / "sub-01" / "figures").mkdir()
    (out_dir / "sub-01" / "figures" / "sub-01_desc-mask_dwi.svg").write_text("<svg/>")
    for name in ("sub-01.html", "group.html", "group_qc.tsv", "group_qc.json"):
        (out_dir / name).write_text("{}")
    (out_dir / STEM).with_name("sub-01_ses-1_model-msdki_desc-gmvae_fit.pt").write_text("x")
    initialise(out_dir, None, {"input": make_run().dataset_root})
    write_manifest(out_dir)
    assert not [problem for problem in validate(out_dir) if "sidecar" in problem]
    assert bids_errors(out_dir) == []
