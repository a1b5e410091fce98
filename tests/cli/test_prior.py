"""A group's prior as users learn and use it: outputs, an interruption, another scheduler."""

import json
import signal

import pytest

from bids_gmvae.exceptions import ExitCode
from tests.cli.test_run import contents, run, start
from tests.tiny import tiny_dataset

pytestmark = pytest.mark.slow

PRIOR = "group_model-msdki_desc-gmvae_prior.json"
VOXELS = "sub-{0}/dwi/sub-{0}_model-msdki_desc-training_voxels.pt"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three mapped participants, and one who is not."""
    root = tmp_path_factory.mktemp("prior")
    tiny_dataset(root / "bids", *(f"sub-0{n}/dwi/sub-0{n}" for n in (1, 2, 3, 4)))
    code, _, error = run(
        *(root / "bids", root / "out", "participant", "-w", root / "work", "--n-components", 2),
        *("--participant-label", "01", "02", "03", "--nprocs", 2),
    )
    assert code == ExitCode.OK, error
    return root


def learning(study, work, *more):
    return (
        *(study / "bids", study / "out", "group", "--learn-prior", "-w", study / work),
        *("--n-components", 2, "--nprocs", 2, *more),
    )


@pytest.fixture(scope="module")
def learnt(study):
    """The prior of an undisturbed call."""
    code, out, error = run(*learning(study, "undisturbed"))
    assert code == ExitCode.OK, error
    assert f"Prior: {study / 'out' / PRIOR}" in out
    return (study / "out" / PRIOR).read_bytes()


def test_the_prior_and_the_voxels_are_in_the_manifest(study, learnt):
    manifest = (study / "out/manifest.tsv").read_text()
    assert PRIOR in manifest
    assert VOXELS.format("02") in manifest
    content = json.loads(learnt)
    assert content["Participants"] == 3
    assert [len(content["Components"]), content["SignalModel"]] == [2, "msdki"]


def test_a_call_that_was_killed_goes_on_to_the_same_prior(study, learnt):
    (study / "out" / PRIOR).unlink()
    process = start(*learning(study, "killed"))
    for line in process.stderr:
        if "round 1" in line:
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (study / "out" / PRIOR).exists()
    code, _, error = run(*learning(study, "killed"))
    assert code == ExitCode.OK, error
    assert "round 1:" not in error
    assert "round 2:" in error
    assert (study / "out" / PRIOR).read_bytes() == learnt


def test_a_second_process_does_not_learn_the_same_prior_in_one_work_directory(study, learnt):
    first = start(*learning(study, "twice"))
    for line in first.stderr:
        if "Learning a prior" in line:
            break
    code, _, error = run(*learning(study, "twice"))
    assert code == ExitCode.NO_SPACE, error
    assert "Another process computes the prior of msdki in the work directory" in error
    assert "Traceback" not in error
    first.communicate()
    assert first.returncode == ExitCode.OK
    assert (study / "out" / PRIOR).read_bytes() == learnt


def test_any_plugin_and_number_of_jobs_gives_the_same_prior(study, learnt):
    plugin = study / "linear.json"
    plugin.write_text('{"plugin": "Linear"}')
    code, _, error = run(*learning(study, "linear", "--use-plugin", plugin, "--nprocs", 3))
    assert code == ExitCode.OK, error
    assert (study / "out" / PRIOR).read_bytes() == learnt


def test_participants_are_mapped_under_it(study, learnt):
    prior = study / "out" / PRIOR
    arguments = (
        *(study / "bids", study / "mapped", "participant", "-w", study / "work"),
        *("--participant-label", "04", "--prior-from", prior),
    )
    _, plan, _ = run(*arguments, "--dry-run")
    assert f"prior:      {PRIOR} (SHA-256 " in plan
    code, _, error = run(*arguments)
    assert code == ExitCode.OK, error
    written = contents(study / "mapped")
    assert VOXELS.format("04") in written
    components = [name for name in written if name.endswith("component_probseg.nii.gz")]
    assert len(components) == 2
    name = "sub-04/dwi/sub-04_model-msdki_param-msd_desc-mean_dwimap.json"
    said = json.loads((study / "mapped" / name).read_text())["Model"]["Parameters"]
    assert said["Prior"] == {"File": PRIOR, "SHA256": contents(study / "out")[PRIOR]}
    page = (study / "mapped/sub-04.html").read_text()
    assert f"{PRIOR}, SHA-256 {said['Prior']['SHA256']}" in page
    methods = (study / "mapped/logs/CITATION.md").read_text()
    assert "2 tissue components learnt from a group of participants" in methods


def test_a_prior_that_was_changed_ends_the_call_with_one_sentence(study, learnt):
    changed = study / "changed.json"
    changed.write_bytes(learnt.replace(b'"Voxels": ', b'"Voxels": 1'))
    code, out, error = run(
        study / "bids", study / "other", "participant", "-w", study / "work",
        "--prior-from", changed,
    )  # fmt: skip
    assert code == ExitCode.INVALID_INPUT
    assert "the checksum differs" in error
    assert len(error.splitlines()) == 1
    assert not out
    assert not (study / "other").exists()


def test_nothing_to_learn_from_is_said(study, tmp_path):
    code, _, error = run(*learning(study, "nobody", "--participant-label", "04"))
    assert code == ExitCode.INVALID_INPUT
    assert "Nothing to learn from is found of sub-04" in error
    (tmp_path / "out").mkdir()
    code, _, error = run(study / "bids", tmp_path / "out", "group", "--learn-prior")
    assert code == ExitCode.NOTHING_ELIGIBLE
    assert "Map the participants first" in error
