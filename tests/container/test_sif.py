"""The same image under Apptainer."""

import os
import shutil

import pytest

from tests.container.conftest import digests, output_of, writable_by_all

pytestmark = pytest.mark.container


@pytest.fixture
def apptainer():
    """Apptainer and the SIF file that BIDS_GMVAE_SIF names."""
    program = shutil.which("apptainer") or shutil.which("singularity")
    if program is None:
        pytest.skip("no apptainer")
    sif = os.environ.get("BIDS_GMVAE_SIF")
    if not sif:
        pytest.skip("BIDS_GMVAE_SIF names no SIF file")
    return program, sif


def test_apptainer_gives_the_maps_of_the_container(apptainer, mapped, bids, tmp_path):
    program, sif = apptainer
    out, work = (writable_by_all(tmp_path / name) for name in ("out", "work"))
    for level in ("participant", "group"):
        output_of(
            program, "run", "--containall",
            "-B", f"{bids}:/data:ro", "-B", f"{out}:/out", "-B", f"{work}:/work",
            sif, "/data", "/out", level, "-w", "/work",
        )  # fmt: skip
    assert digests(out) == digests(mapped.out)
    assert (out / "group.html").exists()
