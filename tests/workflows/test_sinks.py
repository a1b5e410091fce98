"""What is written is written once, and again as soon as it is not what it was."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from bids_gmvae.cli.plan import make_plan
from bids_gmvae.config import (
    ComputeSettings,
    ExecutionSettings,
    ModelSettings,
    OutputSettings,
    RunSettings,
)
from bids_gmvae.interfaces import ResampleToTemplate, left_alone
from bids_gmvae.io.derivatives import training_path
from bids_gmvae.workflows.base import init_gmvae_wf
from tests.bids_tree import write_tree
from tests.faults.bench import contents
from tests.interfaces.test_changed import find_run
from tests.io.test_spaces import SPACE, constant_field, home, make_dataset, write_composite
from tests.tiny import signals, tiny_dataset

__all__ = ["home"]  # a fixture

STEM = "sub-01/dwi/sub-01"
MSD = f"{STEM}_model-msdki_param-msd_desc-mean_dwimap"
WORK = Path("work/gmvae_wf/sub_01_wf")


def call(root, *, out="out", work="work", overwrite=False, plugin=None, **model):
    """Map as a call of the command does; gives the names of the files that were written."""
    before = {path: path.stat().st_ino for path in (root / out).rglob("*") if path.is_file()}
    settings = RunSettings(
        root / "bids",
        root / out,
        "participant",
        model=ModelSettings(**{"estimator": "lsq", **model}),
        compute=ComputeSettings(use_plugin=plugin),
        execution=ExecutionSettings(work_dir=root / work),
        output=OutputSettings(overwrite=overwrite),
    )
    workflow = init_gmvae_wf(make_plan(settings), settings)
    workflow.config["execution"] = {
        "hash_method": "content",
        "create_report": "false",
        "remove_unnecessary_outputs": "false",
    }
    workflow.run()
    # Whoever writes a file anew puts another one in its place.
    written = [
        path
        for path in (root / out).rglob("*")
        if path.is_file() and path.stat().st_ino != before.get(path)
    ]
    return {path.relative_to(root / out).as_posix() for path in written}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run, and its maps and figures."""
    root = tmp_path_factory.mktemp("done")
    tiny_dataset(root / "bids", STEM)
    assert call(root) == set(contents(root / "out"))
    return root


@pytest.fixture
def mapped(done):
    """The same, put right again after each test."""
    shutil.copytree(done / "out", done / "kept")
    yield done
    shutil.rmtree(done / "out")
    (done / "kept").rename(done / "out")


def maps(names):
    return {name for name in names if name.endswith("_dwimap.nii.gz")}


def figures(names):
    return {name for name in names if "/figures/" in name}


def test_what_is_there_is_not_written_again(mapped):
    assert call(mapped) == set()
    for path in mapped.rglob("*"):
        os.utime(path, ns=(0, 0))
    assert call(mapped) == set()
    # It was read once; the note has the new times.
    (note,) = (mapped / WORK).glob("write_*/write/left.json")
    for name, stamp in json.loads(note.read_text()).items():
        path = Path(name)
        if path.exists() and "/out/" in name:
            assert stamp["seen"][1:] == [0, path.stat().st_ctime_ns], name


def test_what_must_not_be_there_is_removed_again(mapped):
    # Voxels for a prior of many, which the voxelwise fit does not leave.
    stray = mapped / "out" / f"{STEM}_model-msdki_desc-training_voxels.pt"
    assert training_path(find_run(mapped / "bids"), "msdki").name == stray.name
    stray.write_bytes(b"of another call")
    assert maps(call(mapped))
    assert not stray.exists()


def remove(path):
    path.unlink()


def change(path):
    """Change one byte, and keep size and times, as a failing disk does."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (f"{MSD}.nii.gz", remove),
        (f"{MSD}.nii.gz", change),
        (f"{MSD}.json", cut),
        (f"{STEM}_model-msdki_desc-gmvae_fit.pt", change),
    ],
)
def test_maps_are_written_again_if_one_file_is_not_what_it_was(mapped, name, damage):
    before = contents(mapped / "out")
    damage(mapped / "out" / name)
    written = call(mapped)
    assert name in written
    assert maps(written) == maps(before)
    assert not figures(written)
    assert contents(mapped / "out") == before


def test_figures_are_drawn_again_alone(mapped):
    before = contents(mapped / "out")
    remove(mapped / "out" / min(figures(before)))
    written = call(mapped)
    assert written == figures(before)
    assert contents(mapped / "out") == before


def test_maps_of_other_data_are_written(mapped, tmp_path):
    for root in (mapped, tmp_path):
        tiny_dataset(root / "bids", STEM)
        write_tree(root / "bids", {f"{STEM}_dwi.nii.gz": signals(9)})
    try:
        written = call(mapped)
        call(tmp_path)
        assert maps(written)
        assert figures(written)
        assert contents(mapped / "out") == contents(tmp_path / "out")
    finally:
        tiny_dataset(mapped / "bids", STEM)
        call(mapped)


def test_maps_that_another_call_replaced_are_written(mapped):
    before = contents(mapped / "out")
    call(mapped, work="elsewhere", b0_threshold=40.0)
    assert contents(mapped / "out") != before
    call(mapped)
    assert contents(mapped / "out") == before


def test_a_result_that_changed_is_written(mapped):
    # Nipype compares names: whatever else made it new, the maps are those of what is there.
    (result,) = (mapped / WORK).glob("fit_*/fit/*result*.pt")
    kept = result.read_bytes()
    (mapped / "other/bids").mkdir(parents=True)
    tiny_dataset(mapped / "other/bids", STEM)
    write_tree(mapped / "other/bids", {f"{STEM}_dwi.nii.gz": signals(9)})
    call(mapped / "other")
    (other,) = (mapped / "other" / WORK).glob("fit_*/fit/*result*.pt")
    try:
        shutil.copyfile(other, result)
        assert maps(call(mapped))
        name = f"{MSD}.nii.gz"
        there, elsewhere = mapped / "out" / name, mapped / "other/out" / name
        assert there.read_bytes() == elsewhere.read_bytes()
    finally:
        result.write_bytes(kept)
        call(mapped)


def test_without_a_note_all_is_written(mapped):
    before = contents(mapped / "out")
    for note in (mapped / WORK).glob("write_*/*/left.json"):
        note.unlink()
    assert call(mapped) == set(before)
    assert contents(mapped / "out") == before


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"a": 1}', '{"a": {"sha256": ""}}', "\0"])
def test_a_note_that_cannot_be_read_says_nothing(tmp_path, content):
    assert not left_alone(tmp_path)
    (tmp_path / "left.json").write_text(content)
    assert not left_alone(tmp_path)


@pytest.mark.parametrize("how", [{"overwrite": True}, {"plugin": Path("sge.yml")}])
def test_all_is_written_if_it_is_asked_for_or_if_nobody_may_tell_of_it(mapped, how):
    assert call(mapped, **how) == set(contents(mapped / "out"))


def test_maps_in_standard_space_follow_the_transform(tmp_path, home):
    result, out_dir, written = make_dataset(tmp_path)
    images = [str(path) for path in written if path.name.endswith(".nii.gz")]
    resample = ResampleToTemplate(
        maps=images, run=result.run.to_dict(), out_dir=str(out_dir), space=SPACE, resolution="2"
    )
    (tmp_path / "node").mkdir()
    resample.run(cwd=str(tmp_path / "node"))
    note = json.loads((tmp_path / "node/left.json").read_text())
    transform = result.run.companions["to_template"]
    sidecars = [image.replace(".nii.gz", ".json") for image in images]
    assert {str(transform), *images, *sidecars} <= note.keys()
    assert sum(f"space-{SPACE}" in name for name in note) > len(images)
    assert left_alone(tmp_path / "node")
    (template,) = home.rglob("*_res-02_T1w.nii.gz")
    assert str(template) in note
    transform, kept = result.run.companions["to_template"], template.read_bytes()
    template.write_bytes(kept[:-1] + b"0")
    assert not left_alone(tmp_path / "node")
    template.write_bytes(kept)
    assert left_alone(tmp_path / "node")
    write_composite(transform, field=constant_field(np.array([4.0, 0.0, 0.0])))
    assert not left_alone(tmp_path / "node")
