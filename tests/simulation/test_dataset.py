"""Simulated datasets follow BIDS, carry the truth, and repeat to the byte."""

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.exceptions import AcquisitionError, InputError, UnknownNameError
from bids_gmvae.simulation.catalogue import GENERATIONS
from bids_gmvae.simulation.dataset import simulate_dataset
from bids_gmvae.simulation.settings import Simulation
from tests.validator import bids_errors

SMALL = {"n_subjects": 1, "voxel_size": 8.0, "n_slices": 3, "scheme": "short"}

COMMON = {
    "_desc-brain_mask.nii.gz",
    "_desc-preproc_dwi.b",
    "_desc-preproc_dwi.bval",
    "_desc-preproc_dwi.bvec",
    "_desc-preproc_dwi.nii.gz",
    "_dwiref.nii.gz",
}

T1W = {
    "_desc-ImageQC_dwi.csv",
    "_desc-SliceQC_dwi.json",
    "_desc-eddy_cnr.nii.gz",
}

ACPC = {
    "_desc-preproc_dwi.b_table.txt",
    "_desc-preproc_dwi.json",
    "_desc-slice_qc.json",
    "_model-eddy_stat-cnr_dwimap.nii.gz",
}

#: Files of one run after ``sub-01_space-X``, by generation (QSIPrep's own lists of outputs).
ENDINGS = {
    "0.22": COMMON | T1W | {"_desc-preproc_dwi.txt"},
    "0.23": COMMON | T1W | {"_desc-preproc_dwi.b_table.txt"},
    "0.24": COMMON | ACPC | {"_desc-image_qc.csv"},
    "1.0": COMMON | ACPC | {"_desc-image_qc.tsv"},
    "26.0": COMMON | ACPC | {"_desc-image_qc.tsv"},
}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """Ball-stick data, nearly without noise: raw, and QSIPrep's for the same head."""
    out = tmp_path_factory.mktemp("both")
    options = SMALL | {"signal_model": "ball_stick", "qsiprep_for": ["01"], "snr": 1e4}
    return simulate_dataset(out, **options, dtype="float32", background=False)


def read(path: Path) -> np.ndarray:
    return nb.load(path).get_fdata()


def test_raw_dataset_is_valid(tmp_path) -> None:
    options = SMALL | {"sessions": ["pre", "post"], "runs": 2, "qsiprep_for": ["01"]}
    simulate_dataset(tmp_path / "raw", **options)
    assert bids_errors(tmp_path / "raw") == []


def test_sessions_and_runs_are_named_and_differ_in_noise(tmp_path) -> None:
    simulate_dataset(tmp_path, **SMALL | {"sessions": ["pre", "post"], "runs": 2})
    images = sorted((tmp_path / "sub-01").rglob("*.nii.gz"))
    assert [str(path.relative_to(tmp_path / "sub-01")) for path in images] == [
        f"ses-{session}/dwi/sub-01_ses-{session}_run-{run}_dwi.nii.gz"
        for session in ("post", "pre")
        for run in ("01", "02")
    ]
    first, second = (read(path)[..., 0] for path in images[:2])
    assert 0.9 < np.corrcoef(first.ravel(), second.ravel())[0, 1] < 1
    assert nb.load(images[0]).get_data_dtype() == np.int16


def test_equal_settings_give_equal_bytes(tmp_path) -> None:
    for name in ("a", "b"):
        simulate_dataset(tmp_path / name, **SMALL, qsiprep_for=["01"], lesions=True, jitter=True)
    files = sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 30
    for path in files:
        twin = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == twin.read_bytes(), path


def test_powder_average_is_exactly_that_of_the_true_parameters(tmp_path) -> None:
    options = SMALL | {"snr": 1e6, "dtype": "float32"}
    simulate_dataset(tmp_path, **options)
    images = read(tmp_path / "sub-01" / "dwi" / "sub-01_dwi.nii.gz")
    bvals = np.loadtxt(tmp_path / "sub-01" / "dwi" / "sub-01_dwi.bval")
    truth = tmp_path / "derivatives" / "truth" / "sub-01" / "dwi"
    stem = "sub-01_model-msdki_param"
    d, k, s0 = (read(truth / f"{stem}-{p}_desc-truth_dwimap.nii.gz") for p in ("msd", "msk", "s0"))
    mask = read(truth / "sub-01_desc-truth_dseg.nii.gz") > 0
    for b in (1000.0, 2000.0, 3000.0):
        expected = s0 * np.exp(-b * d + (b * d) ** 2 * k / 6)
        found = images[..., bvals == b].mean(-1)
        np.testing.assert_allclose(found[mask], expected[mask], rtol=1e-3, atol=0.01)
    # Yet single volumes differ between directions, as in tissue.
    assert images[..., bvals == 3000][mask].std(-1).max() > 50


def test_world_and_image_axes_agree_in_qsiprep(both: Path) -> None:
    stem = both / "derivatives/qsiprep/sub-01/dwi/sub-01_space-ACPC_desc-preproc_dwi"
    image = nb.load(f"{stem}.nii.gz")
    assert nb.aff2axcodes(image.affine) == ("L", "P", "S")
    world, along_image = np.loadtxt(f"{stem}.b"), np.loadtxt(f"{stem}.bvec").T
    np.testing.assert_allclose(world[:, :3], along_image * [-1, -1, 1], atol=1e-6)
    np.testing.assert_allclose(world[:, 3], np.loadtxt(f"{stem}.bval"))


@pytest.mark.parametrize("source", ["raw", "qsiprep"])
def test_a_tensor_fit_finds_the_true_orientation(both: Path, source: str) -> None:
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    if source == "raw":
        folder, name, ending = both / "sub-01/dwi", "sub-01", ""
        # FSL: the first image axis is negated where the affine's determinant is positive.
        sign = [-1.0, 1.0, 1.0]
    else:
        folder = both / "derivatives/qsiprep/sub-01/dwi"
        name, ending, sign = "sub-01_space-ACPC", "_desc-preproc", [1.0, 1.0, 1.0]
    image = nb.load(folder / f"{name}{ending}_dwi.nii.gz")
    assert np.linalg.det(image.affine) > 0
    bvals = np.loadtxt(folder / f"{name}{ending}_dwi.bval")
    bvecs = np.loadtxt(folder / f"{name}{ending}_dwi.bvec").T * sign
    truth = both / "derivatives/truth/sub-01/dwi"
    labels = read(truth / f"{name}_desc-truth_dseg.nii.gz")
    direction = read(truth / f"{name}_model-bs_param-vector_desc-truth_dwimap.nii.gz")
    low = bvals <= 1000
    white = labels == 1
    table = gradient_table(bvals[low], bvecs=bvecs[low])
    fit = TensorModel(table).fit(image.get_fdata()[white][:, low])
    cosines = np.abs((fit.directions[:, 0] * direction[white]).sum(-1))
    assert np.median(np.rad2deg(np.arccos(np.clip(cosines, 0, 1)))) < 6


@pytest.mark.parametrize("generation", GENERATIONS)
def test_qsiprep_names_are_those_of_the_generation(tmp_path, generation: str) -> None:
    simulate_dataset(tmp_path, **SMALL, layout="qsiprep", generation=generation, anatomy=False)
    root = tmp_path / "qsiprep" if generation == "0.22" else tmp_path
    space = "T1w" if generation in ("0.22", "0.23") else "ACPC"
    confounds = "_confounds.tsv" if space == "T1w" else "_desc-confounds_timeseries.tsv"
    found = {path.name for path in (root / "sub-01/dwi").iterdir()}
    expected = {f"sub-01_space-{space}{ending}" for ending in ENDINGS[generation]}
    assert found == expected | {f"sub-01{confounds}"}
    description = json.loads((root / "dataset_description.json").read_text())
    assert description["PipelineDescription"]["Version"].startswith(generation)
    assert ("GeneratedBy" in description) == (space == "ACPC")


@pytest.mark.parametrize(("generation", "entity", "space"), [
    ("0.23", "", "T1w"), ("1.0", "_space-ACPC", "ACPC"),
])  # fmt: skip
def test_anatomy_comes_with_the_transform(tmp_path, generation, entity, space) -> None:
    simulate_dataset(tmp_path, **SMALL, layout="qsiprep", generation=generation)
    names = {path.name for path in (tmp_path / "sub-01/anat").iterdir()}
    assert {
        f"sub-01{entity}_desc-preproc_T1w.nii.gz",
        f"sub-01{entity}_desc-brain_mask.nii.gz",
        f"sub-01{entity}_dseg.nii.gz",
        f"sub-01_from-{space}_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
        f"sub-01_from-MNI152NLin2009cAsym_to-{space}_mode-image_xfm.h5",
    } <= names


def test_truth_lies_on_the_grid_of_its_image(both: Path) -> None:
    truth = both / "derivatives/truth/sub-01/dwi"
    for image, stem in (
        (both / "sub-01/dwi/sub-01_dwi.nii.gz", "sub-01"),
        (
            both / "derivatives/qsiprep/sub-01/dwi/sub-01_space-ACPC_desc-preproc_dwi.nii.gz",
            "sub-01_space-ACPC",
        ),
    ):
        for path in truth.glob(f"{stem}_[md]*.nii.gz"):
            np.testing.assert_allclose(nb.load(path).affine, nb.load(image).affine)


def test_truth_is_no_input_of_the_app(both: Path) -> None:
    names = [path.name.split(".")[0] for path in both.glob("derivatives/truth/sub-*/dwi/*.*")]
    assert names
    assert {name.rsplit("_", 1)[1] for name in names} == {"dwimap", "dseg"}


def test_echo_times_are_listed_by_volume(tmp_path) -> None:
    options = {name: value for name, value in SMALL.items() if name != "scheme"}
    simulate_dataset(tmp_path, **options, signal_model="t2_adc")
    content = json.loads((tmp_path / "sub-01/dwi/sub-01_dwi.json").read_text())
    assert len(content["EchoTime"]) == 45
    assert set(content["EchoTime"]) == {0.06, 0.08, 0.1, 0.13, 0.16}
    assert (tmp_path / "derivatives/truth/sub-01/dwi/sub-01_desc-truth_T2map.nii.gz").exists()


def test_noise_has_the_stated_level(tmp_path) -> None:
    simulate_dataset(tmp_path, **SMALL | {"snr": 20, "dtype": "float32", "scheme": "multishell"})
    images = read(tmp_path / "sub-01/dwi/sub-01_dwi.nii.gz")
    corner = images[:2, :2].ravel()
    # Without signal the mean of squares is twice the variance of a channel.
    assert np.sqrt((corner**2).mean() / 2) == pytest.approx(50.0, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"snr": 0.0}, InputError, "snr must be 0.001 to 1e"),
        ({"voxel_size": 0.1}, InputError, "voxel_size must be 1 to 20 mm, not 0.1"),
        ({"axes": "RLS"}, InputError, "axes must name three directions"),
        ({"layout": "bids"}, UnknownNameError, "Unknown layout 'bids'"),
        ({"generation": "0.21"}, UnknownNameError, "Unknown QSIPrep generation"),
        ({"qsiprep_for": ["7"]}, UnknownNameError, "Unknown participant '7'"),
        ({"signal_model": "noddi"}, UnknownNameError, "Unknown population 'noddi'"),
        ({"scheme": "singleshell"}, AcquisitionError, "at least two shells"),
        ({"bvec": Path("dwi.bvec")}, InputError, "needs its bval file"),
    ],
)
def test_impossible_settings_are_named(tmp_path, settings, error, message) -> None:
    with pytest.raises(error, match=message):
        simulate_dataset(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(InputError, match="is not empty"):
        simulate_dataset(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_sessions_may_be_counted() -> None:
    assert Simulation(sessions=2).session_labels == ["1", "2"]
    assert Simulation().session_labels == [None]
