"""The container image: built beforehand, run as its users run it."""

import json
import os
import subprocess

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae import __version__
from tests.container.conftest import DEMO, digests, writable_by_all

pytestmark = pytest.mark.container


def test_every_participant_is_mapped_and_reported(mapped):
    for label in ("01", "02"):
        (mean,) = mapped.out.glob(f"sub-{label}/dwi/*_param-msd_desc-mean_dwimap.nii.gz")
        (mask,) = mapped.out.glob(f"sub-{label}/dwi/*_mask.nii.gz")
        inside = np.asarray(nb.load(mask).dataobj) > 0
        values = np.asarray(nb.load(mean).dataobj)[inside]
        assert 5e-4 < np.nanmedian(values) < 1.5e-3
        assert (mapped.out / f"sub-{label}.html").stat().st_size > 1e5
    assert (mapped.out / "group.html").exists()


def test_results_belong_to_the_user_of_the_container(container, mapped):
    arguments = "/out", "-type", "f", "-not", "-user", "12345"
    assert not container.run(*arguments, mounts={mapped.out: "/out:ro"}, entrypoint="find")


def test_results_name_the_image(container, mapped):
    version = container.inspect('{{index .Config.Labels "org.opencontainers.image.version"}}')
    description = json.loads((mapped.out / "dataset_description.json").read_text())
    (generator,) = description["GeneratedBy"]
    assert generator["Container"] == {"Type": "docker", "Tag": f"bids_gmvae:{version}"}


def test_compiled_code_outlives_the_container(mapped):
    assert list((mapped.work / "gmvae_cache" / "numba").rglob("*.nbc"))


def test_the_same_command_again_fits_nothing_again(container, mapped, bids):
    fits, maps = fitted(mapped.work), digests(mapped.out)
    assert len(fits) == 2
    mounts = {bids: "/data:ro", mapped.out: "/out", mapped.work: "/work"}
    container.run("/data", "/out", "participant", "-w", "/work", mounts=mounts)
    assert fitted(mapped.work) == fits
    assert digests(mapped.out) == maps


def test_the_recipe_gives_the_same_maps(container, mapped, bids, tmp_path, repository):
    environment = {
        **os.environ,
        "ENGINE": container.engine,
        "IMAGE": container.image,
        "WORK": str(tmp_path / "work"),
    }
    recipe = repository / "workflows" / "docker" / "run.sh"
    subprocess.run([recipe, bids, tmp_path / "out"], env=environment, check=True)
    assert digests(tmp_path / "out") == digests(mapped.out)
    assert (tmp_path / "out" / "group.html").stat().st_uid == os.getuid()


def test_datasets_are_simulated_in_the_image_too(container, bids, tmp_path):
    folder = writable_by_all(tmp_path / "simulated")
    container.run("/sim", *DEMO, mounts={folder: "/sim"}, entrypoint="bids-gmvae-simulate")
    assert digests(folder) == digests(bids)


def test_the_plan_needs_the_data_and_a_place_for_temporary_files(container, bids):
    arguments = "/data", "/out", "participant", "--dry-run=json"
    mounts = {bids: "/data:ro"}
    plan = json.loads(container.run(*arguments, mounts=mounts, more=["--tmpfs", "/tmp"]))
    assert plan["participants"] == ["01", "02"]
    with pytest.raises(RuntimeError, match="No usable temporary directory"):
        container.run(*arguments, mounts=mounts)


def test_the_image_is_of_this_version(container):
    assert container.run("--version").endswith(__version__)
    version = container.inspect('{{index .Config.Labels "org.opencontainers.image.version"}}')
    assert version in (f"{__version__}-cpu", f"{__version__}-cuda")


def test_the_image_for_cpus_is_small(container):
    version = container.inspect('{{index .Config.Labels "org.opencontainers.image.version"}}')
    if not version.endswith("-cpu"):
        pytest.skip("not the image for CPUs")
    assert int(container.inspect("{{.Size}}")) <= 1.8e9


def fitted(work):
    """Give when each fit was made."""
    return {path: path.stat().st_mtime_ns for path in work.rglob("result_fit.pklz")}
