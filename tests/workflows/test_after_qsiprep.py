"""The chain after QSIPrep, run as it stands on what every generation of QSIPrep leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.exceptions import ExitCode
from bids_gmvae.simulation.catalogue import GENERATIONS
from bids_gmvae.simulation.dataset import simulate_dataset

WORKFLOWS = Path(__file__).parents[2] / "workflows"
SPACE = "MNI152NLin2009cAsym"
TEMPLATE_SHAPE = (25, 29, 24)

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash")


@pytest.fixture
def chain(tmp_path):
    """Simulate what QSIPrep left for a participant, and run a program of workflows/ on it."""
    home = tmp_path / "templateflow" / f"tpl-{SPACE}"
    home.mkdir(parents=True)
    affine = np.array([[8.0, 0, 0, -96], [0, 8, 0, -132], [0, 0, 8, -78], [0, 0, 0, 1]])
    grid = nb.Nifti1Image(np.zeros(TEMPLATE_SHAPE, np.uint8), affine)
    nb.save(grid, home / f"tpl-{SPACE}_res-02_T1w.nii.gz")

    def simulate(generation="1.0", **settings):
        (tmp_path / "bids").mkdir()
        simulate_dataset(
            tmp_path / "derivatives/qsiprep",
            layout="qsiprep",
            generation=generation,
            n_subjects=1,
            scheme="short",
            voxel_size=8.0,
            n_slices=2,
            **settings,
        )

    def run(program, *arguments, code=ExitCode.OK):
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TEMPLATEFLOW_HOME": str(home.parent),
            "WORK": str(tmp_path / "work"),
        }
        done = subprocess.run(
            [*program, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    return simulate, run


RUN = (WORKFLOWS / "after_qsiprep/run.sh", "bids", "derivatives")
SINGLE = (sys.executable, WORKFLOWS / "single_run.py")


def maps(folder):
    """Give the bytes of all maps, by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("sub-*/**/*.nii.gz")}


def test_without_anatomy_all_but_the_standard_space_follows(chain, tmp_path):
    simulate, run = chain
    simulate(anatomy=False)
    spaces = ("--output-spaces", f"{SPACE}:res-2")
    done = run(RUN, "--estimator", "lsq", *spaces, code=ExitCode.RUN_FAILED)
    out = tmp_path / "derivatives/bids_gmvae"
    name = "sub-01_space-ACPC_model-msdki_param-msd_desc-mean_dwimap.nii.gz"
    assert (out / "sub-01/dwi" / name).exists()
    assert "sub-01\t" in (out / "group_parameters.tsv").read_text()
    assert {"sub-01.html", "group.html"} <= {path.name for path in out.iterdir()}
    assert not list(out.rglob(f"*space-{SPACE}*"))
    assert f"There is no transform from sub-01_space-ACPC_desc-preproc_dwi.nii.gz to {SPACE}" in (
        done.stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_is_mapped_by_the_app_and_in_another_workflow(
    chain, tmp_path, generation
):
    simulate, run = chain
    simulate(generation, sessions=["pre", "post"])
    run(RUN, "--session-label", "post", "--output-spaces", f"{SPACE}:res-2")
    out = tmp_path / "derivatives/bids_gmvae"
    native = GENERATIONS[generation].space
    stem = "sub-01/ses-post/dwi/sub-01_ses-post"
    name = "model-msdki_param-msd_{}desc-mean_dwimap.nii.gz"
    values = nb.load(out / f"{stem}_space-{native}_{name.format('')}").get_fdata()
    standard = nb.load(out / f"{stem}_space-{SPACE}_{name.format('res-2_')}")
    assert standard.shape == TEMPLATE_SHAPE
    resampled = standard.get_fdata()
    medians = [np.nanmedian(map_[map_ > 0]) for map_ in (values, resampled)]
    assert medians[1] == pytest.approx(medians[0], rel=0.1)

    # Nipoppy would call the session complete.
    tracked = (WORKFLOWS / "nipoppy/tracker.json").read_text()
    tracked = tracked.replace("[[NIPOPPY_BIDS_PARTICIPANT_ID]]", "sub-01")
    for pattern in json.loads(tracked.replace("[[NIPOPPY_BIDS_SESSION_ID]]", "ses-post"))["PATHS"]:
        assert list(out.glob(pattern))

    dataset = tmp_path / "derivatives/qsiprep"
    if not (dataset / "dataset_description.json").exists():
        dataset /= "qsiprep"
    done = run(SINGLE, dataset, "embedded", "01", "--session", "post", "-w", "work/embedded")
    assert f"{medians[0]:.4g}" in done.stdout
    of_the_app = {key: value for key, value in maps(out).items() if SPACE not in key}
    assert maps(tmp_path / "embedded") == of_the_app
