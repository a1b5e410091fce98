import json
import os
import subprocess
import sys

import h5py
import nibabel as nb
import numpy as np
import pytest
import torch

from bids_gmvae.exceptions import InputError
from bids_gmvae.io import spaces
from bids_gmvae.io.dataset import initialise, validate, write_manifest
from bids_gmvae.io.derivatives import write_result
from bids_gmvae.io.run import Run
from bids_gmvae.io.spaces import map_points, parse_space, resample_to_template
from bids_gmvae.posterior import FAILED, Status
from bids_gmvae.voxels import Grid
from tests.results import PROVENANCE, make_result, make_run

SPACE = "MNI152NLin2009cAsym"
STEM = f"sub-01/ses-1/dwi/sub-01_ses-1_space-{SPACE}"

#: LPS, as in ITK; invertible, with rotation, shear and a centre.
MATRIX = np.array([[1.02, 0.1, 0.0], [-0.1, 0.97, 0.05], [0.02, 0.0, 1.0]])
TRANSLATION = np.array([1.5, -2.0, 0.75])
CENTER = np.array([3.0, -4.0, 5.0])

TEMPLATE = np.array([[1.5, 0, 0, -9], [0, 1.5, 0, -12], [0, 0, 1.5, -6], [0, 0, 0, 1.0]])
TEMPLATE_SHAPE = (13, 15, 9)


def write_composite(path, *, field=None, spacing=(2.0, 2.0, 2.0), origin=(-40.0, -40.0, -40.0)):
    """Write what ITK writes: an affine, then a displacement field; points pass the last first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("TransformGroup")

        def add(index, kind, parameters=None, fixed=None):
            part = group.create_group(str(index))
            part["TransformType"] = np.array([f"{kind}_double_3_3".encode()])
            if parameters is not None:
                part["TransformParameters"] = np.asarray(parameters, dtype=np.float64)
                part["TransformFixedParameters"] = np.asarray(fixed, dtype=np.float64)

        add(0, "CompositeTransform")
        add(1, "AffineTransform", [*MATRIX.ravel(), *TRANSLATION], CENTER)
        if field is not None:
            fixed = [*field.shape[1:], *origin, *spacing, *np.eye(3).ravel()]
            add(2, "DisplacementFieldTransform", field.ravel(order="F"), fixed)
    return path


def by_hand(points, shift=(0.0, 0.0, 0.0)):
    """Send template points (RAS) to the native image (RAS), straight from ITK's manual."""
    lps = points * [-1, -1, 1] + np.asarray(shift)
    return ((lps - CENTER) @ MATRIX.T + TRANSLATION + CENTER) * [-1, -1, 1]


def constant_field(shift):
    return np.broadcast_to(np.reshape(shift, (3, 1, 1, 1)), (3, 41, 41, 41)).copy()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A TemplateFlow home made by hand, which needs neither network nor templateflow."""
    folder = tmp_path / "templateflow" / f"tpl-{SPACE}"
    folder.mkdir(parents=True)
    image = nb.Nifti1Image(np.zeros(TEMPLATE_SHAPE, np.uint8), TEMPLATE)
    image.set_sform(TEMPLATE, code=4)
    nb.save(image, folder / f"tpl-{SPACE}_res-02_T1w.nii.gz")
    (folder / f"tpl-{SPACE}_res-01_T1w.nii.gz").touch()  # TemplateFlow's placeholder
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(folder.parent))
    return folder.parent


def with_transform(run, path):
    return Run(**{**vars(run), "companions": {**run.companions, "to_template": path}})


def make_dataset(tmp_path, *, shift=(1.0, -2.0, 3.0), change=None, signal_model="msdki"):
    root = tmp_path / "qsiprep"
    transform = root / "sub-01" / "anat" / f"sub-01_from-ACPC_to-{SPACE}_mode-image_xfm.h5"
    write_composite(transform, field=constant_field(shift))
    affine = np.diag([-2.0, 2.0, 2.5, 1.0])
    affine[:3, 3] = (14, -20, -10)
    grid = Grid(shape=(16, 18, 12), affine=affine, qform_code=1, sform_code=1)
    result = make_result(signal_model, run=with_transform(make_run(root), transform), grid=grid)
    if change:
        change(result)
    out_dir = tmp_path / "out"
    maps = write_result(result, out_dir, provenance=PROVENANCE)
    return result, out_dir, maps


def load(out_dir, name):
    image = nb.load(out_dir / f"{STEM}_{name}.nii.gz")
    return np.asanyarray(image.dataobj)


def native_points(shift):
    indices = np.indices(TEMPLATE_SHAPE).reshape(3, -1).T
    world = indices @ TEMPLATE[:3, :3].T + TEMPLATE[:3, 3]
    return by_hand(world, shift)


def test_points_follow_the_definition_of_itk(tmp_path):
    shift = np.array([1.0, -2.0, 3.0])
    path = write_composite(tmp_path / "x.h5", field=constant_field(shift))
    points = np.random.default_rng(0).uniform(-30, 30, (40, 3))
    np.testing.assert_allclose(map_points(path, points), by_hand(points, shift), atol=1e-9)
    far = points + 500  # outside the field only the affine is left
    np.testing.assert_allclose(map_points(path, far), by_hand(far), atol=1e-9)


def test_a_displacement_field_is_interpolated_linearly_in_its_own_frame(tmp_path):
    # A displacement that is linear in the position is reproduced exactly.
    slope = np.array([[0.1, 0.02, 0], [0, -0.05, 0.03], [0.04, 0, 0.02]])
    indices = np.indices((41, 41, 41)).reshape(3, -1)
    positions = 2.0 * indices - 40.0
    field = (slope @ positions).reshape(3, 41, 41, 41)
    path = write_composite(tmp_path / "x.h5", field=field)
    points = np.random.default_rng(1).uniform(-30, 30, (40, 3))
    shift = (points * [-1, -1, 1]) @ slope.T
    np.testing.assert_allclose(map_points(path, points), by_hand(points, shift), atol=1e-9)


def test_a_map_that_is_linear_in_space_arrives_exactly(tmp_path, home):
    shift = (1.0, -2.0, 3.0)
    weights = np.array([2e-5, -1e-5, 3e-5])

    def linear(result):
        world = np.argwhere(result.mask) @ result.grid.affine[:3, :3].T + result.grid.affine[:3, 3]
        result.posterior.mean[:, 0] = torch.from_numpy(1e-3 + world @ weights)
        result.posterior.status[:] = int(Status.FITTED)
        result.mask[1, 1, 1] = result.removed[1, 1, 1] = False

    result, out_dir, maps = make_dataset(tmp_path, shift=shift, change=linear)
    resample_to_template(maps, result.run, out_dir, SPACE, "2")
    found = load(out_dir, "model-msdki_param-msd_res-2_desc-mean_dwimap").ravel()
    expected = 1e-3 + native_points(shift) @ weights
    inside = load(out_dir, "res-2_desc-gmvae_mask").ravel() > 0
    # Where all eight neighbours are in the mask; at its border values are drawn inwards.
    inverse = np.linalg.inv(result.grid.affine)
    places = native_points(shift) @ inverse[:3, :3].T + inverse[:3, 3]
    deep = np.all((places > 2) & (places < np.array(result.grid.shape) - 3), axis=1)
    assert deep.sum() > 200
    assert inside[deep].all()
    np.testing.assert_allclose(found[deep], expected[deep], rtol=1e-5)
    assert not found[~inside].any()


def test_a_blob_lands_where_it_must(tmp_path, home):
    voxel = (8, 9, 6)

    def blob(result):
        result.posterior.residual[:] = 1
        index = np.flatnonzero((np.argwhere(result.mask) == voxel).all(axis=1))[0]
        result.posterior.residual[index] = 5

    result, out_dir, maps = make_dataset(tmp_path, shift=(0.0, 0.0, 0.0), change=blob)
    resample_to_template(maps, result.run, out_dir, SPACE, "2")
    found = load(out_dir, "model-msdki_res-2_desc-residual_dwimap")
    peak = np.array(np.unravel_index(np.nanargmax(found), found.shape))
    arrived = by_hand((TEMPLATE[:3, :3] @ peak + TEMPLATE[:3, 3])[None])[0]
    source = result.grid.affine[:3, :3] @ voxel + result.grid.affine[:3, 3]
    assert np.abs(arrived - source).max() < 2.5


def test_failed_voxels_do_not_bleed_and_codes_are_not_mixed(tmp_path, home):
    def poison(result):
        result.posterior.status[:] = int(Status.FITTED)
        result.posterior.status[::7] = int(Status.NOT_CONVERGED)
        result.posterior.mean[:] = 1e-3
        result.posterior.mean[::7] = 1e9

    result, out_dir, maps = make_dataset(tmp_path, change=poison)
    resample_to_template(maps, result.run, out_dir, SPACE, "2")
    status = load(out_dir, "model-msdki_res-2_desc-status_dseg")
    assert set(np.unique(status)) <= {0, int(Status.FITTED), int(Status.NOT_CONVERGED), 5}
    found = load(out_dir, "model-msdki_param-msd_res-2_desc-mean_dwimap")
    failed = np.isin(status, FAILED)
    assert failed.any()
    np.testing.assert_array_equal(np.isnan(found), failed)
    fitted = status == Status.FITTED
    np.testing.assert_allclose(found[fitted], 1e-3, rtol=1e-6)


def test_a_mask_that_touches_the_border_of_the_image_has_values_up_to_there():
    # Slabs of few slices are such.
    coordinates = np.array([[-0.4, 0.0, 1.0, 2.4], [0.0, -0.4, 1.4, 1.0], [0.0, 1.0, 1.2, 1.0]])
    mask = np.ones((3, 2, 3), dtype=bool)
    target = spaces.Target(np.ones((1, 1, 4), dtype=bool), coordinates, mask)
    np.testing.assert_allclose(target.linear(np.full(mask.shape, 7.0)), 7.0)


def test_names_sidecars_and_the_whole_dataset_are_valid(tmp_path, home):
    result, out_dir, maps = make_dataset(tmp_path, signal_model="ball_stick")
    written = resample_to_template(maps, result.run, out_dir, SPACE, "2")
    names = {path.name for path in written}
    prefix = f"sub-01_ses-1_space-{SPACE}"
    assert f"{prefix}_model-bs_param-vf_res-2_desc-mean_dwimap.nii.gz" in names
    assert f"{prefix}_model-bs_res-2_label-C1_desc-component_probseg.json" in names
    assert f"{prefix}_model-bs_res-2_desc-status_dseg.tsv" in names
    assert not any("vector" in name or "qc" in name for name in names)
    path = out_dir / f"{STEM}_model-bs_param-vf_res-2_desc-mean_dwimap.json"
    sidecar = json.loads(path.read_text())
    assert sidecar["Resolution"] == f"Grid of {SPACE}, res-2: 1.5x1.5x1.5 mm"
    assert [uri.split(":")[1] for uri in sidecar["Sources"]] == ["", "qsiprep"]
    assert sidecar["Sources"][1].endswith("_mode-image_xfm.h5")
    image = nb.load(path.with_name(path.name.replace(".json", ".nii.gz")))
    assert int(image.header["sform_code"]) == 4
    initialise(out_dir, None, {})
    write_manifest(out_dir)
    assert validate(out_dir) == []


@pytest.mark.parametrize(
    ("changed", "n_left"), [({}, None), ({"n_components": 2}, 0), ({"estimator": "lsq"}, 0)]
)
def test_maps_in_standard_space_go_with_the_maps_they_show(tmp_path, home, changed, n_left):
    result, out_dir, maps = make_dataset(tmp_path, signal_model="ball_stick")
    written = [
        path
        for path in resample_to_template(maps, result.run, out_dir, SPACE, "2")
        if "_model-" in path.name
    ]
    other = make_result("ball_stick", run=result.run, grid=result.grid, **changed)
    write_result(other, out_dir, provenance=PROVENANCE)
    left = [path for path in written if path.exists()]
    assert len(left) == (len(written) if n_left is None else n_left)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(SPACE, (SPACE, "2")), (f"{SPACE}:res-1", (SPACE, "1")), (f"{SPACE}:res-02", (SPACE, "2"))],
)
def test_output_spaces_are_understood(text, expected):
    assert parse_space(text) == expected


@pytest.mark.parametrize("text", ["MNI:res-native", "a/b", "MNI:cohort-1", ""])
def test_other_output_spaces_are_refused(text):
    with pytest.raises(InputError, match="NAME:res-INDEX"):
        parse_space(text)


def test_another_resolution_than_a_number_is_told_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="NAME:res-INDEX"):
        resample_to_template([], make_run(), tmp_path, SPACE, "native")


def test_a_run_without_transform_is_told_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="There is no transform from sub-01"):
        resample_to_template([], make_run(), tmp_path, SPACE)


def test_a_transform_to_another_template_is_told_in_a_sentence(tmp_path, home):
    result, out_dir, maps = make_dataset(tmp_path)
    with pytest.raises(InputError, match=f"leads to {SPACE}, not to MNIInfant"):
        resample_to_template(maps, result.run, out_dir, "MNIInfant")


def test_a_transform_of_another_brain_is_told_in_a_sentence(tmp_path, home):
    result, out_dir, maps = make_dataset(tmp_path, shift=(900.0, 0.0, 0.0))
    with pytest.raises(InputError, match="puts no voxel"):
        resample_to_template(maps, result.run, out_dir, SPACE)
    assert not list(out_dir.rglob(f"*{SPACE}*"))


def test_a_damaged_transform_is_told_in_a_sentence(tmp_path, home):
    path = tmp_path / f"sub-01_from-ACPC_to-{SPACE}_mode-image_xfm.h5"
    path.write_text("not HDF5")
    with pytest.raises(InputError, match="cannot be read as a composite transform"):
        map_points(path, np.zeros((1, 3)))


def test_nothing_is_imported_or_made_before_it_is_needed(tmp_path):
    code = (
        "import sys, bids_gmvae.io.spaces\n"
        "print(sorted({'templateflow', 'nitransforms', 'requests'} & set(sys.modules)))"
    )
    environment = {**os.environ, "TEMPLATEFLOW_HOME": str(tmp_path / "absent")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "absent").exists()
