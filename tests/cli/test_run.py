"""The command as users run it: outputs, exit codes, what a second or killed run does."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bids_gmvae.cli.execution import Outcome, _confirmed, _first_file
from bids_gmvae.cli.failures import Failure
from bids_gmvae.cli.levels import exit_code
from bids_gmvae.cli.plugins import read_plugin
from bids_gmvae.cli.run import _start_logs, main
from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import ExitCode, InputError, StorageError
from bids_gmvae.io.atomic import TEMPORARY, write_text
from bids_gmvae.io.dataset import validate
from bids_gmvae.workflows.plan import LeftOut
from tests.bids_tree import text_of
from tests.faults.processes import wait_for_the_end_of
from tests.tiny import BVALS, signals, tiny_dataset, tiny_mask, tiny_run
from tests.validator import bids_errors
from tests.workflows.test_graphs import planned_run

ROOT = Path(__file__).parents[2]


def start(*arguments, **environment):
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "bids_gmvae", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments, **environment):
    """Run the command; gives exit code, standard output, standard error."""
    process = start(*arguments, **environment)
    out, error = process.communicate(timeout=240)
    return process.returncode, out, error


def contents(folder):
    """Give a checksum of every file but the logs."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "logs"
    }


def arguments(study, *more, root=None):
    root = root or study
    return (
        study / "bids", root / "out", "participant", "-w", root / "work", "--estimator", "lsq",
        "--nprocs", "2", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two good runs fitted together with one whose data are broken, and one broken table."""
    root = tmp_path_factory.mktemp("run")
    constant = signals(3)
    constant[..., 7] = 100
    stem = "sub-01/dwi/sub-01_run-3"
    tiny_dataset(
        root / "bids",
        "sub-01/dwi/sub-01_run-1",
        "sub-01/dwi/sub-01_run-2",
        **tiny_run(stem, 3) | tiny_mask(stem) | {f"{stem}_dwi.nii.gz": constant},
        **tiny_run("sub-02/dwi/sub-02", 1) | {"sub-02/dwi/sub-02_dwi.bval": text_of(BVALS[:-1])},
    )
    return root


@pytest.fixture(scope="module")
def first(study):
    """The first run of the command."""
    return run(*arguments(study))


def test_bad_runs_fail_alone(study, first):
    code, out, error = first
    assert code == ExitCode.RUN_FAILED, error
    assert "2 runs mapped, 2 failed" in out
    assert "volume 7" in error
    assert "as many b-values as" in error
    assert "Traceback" not in error
    written = contents(study / "out")
    for number in (1, 2):
        name = f"sub-01/dwi/sub-01_run-{number}_model-msdki_param-msd_desc-mean_dwimap.nii.gz"
        assert name in written
    assert not any("run-3_model" in name for name in written)
    assert {"sub-01.html", "sub-02.html", "dataset_description.json", "manifest.tsv"} <= set(
        written
    )


def test_logs_say_how_it_was_run_and_nothing_of_persons(study, first):
    (log_dir,) = [path for path in (study / "out" / "logs").iterdir() if path.is_dir()]
    assert 'estimator = "lsq"' in (log_dir / "config.toml").read_text()
    assert "fitting" in (log_dir / "bids_gmvae.log").read_text()
    assert list(log_dir.glob("crash-*-extract-*.txt"))
    for path in (study / "out").rglob("*"):
        if path.is_file() and path.suffix in (".txt", ".log", ".json", ".tsv", ".html", ".toml"):
            assert "Somebody" not in path.read_text(), path


@pytest.mark.slow
def test_a_second_run_skips_what_is_finished_and_writes_the_same(study, first):
    before = contents(study / "out")
    (study / "out/sub-01.html").unlink()
    next((study / "out/sub-01/dwi").glob("*_desc-mean_dwimap.nii.gz")).unlink()
    code, _, error = run(*arguments(study))
    assert code == ExitCode.RUN_FAILED
    assert "writing maps" in error
    assert "fitting" not in error
    assert contents(study / "out") == before


@pytest.mark.slow
def test_outputs_do_not_depend_on_where_the_data_lie(study, first, tmp_path):
    shutil.copytree(study / "bids", tmp_path / "elsewhere" / "bids")
    code, _, error = run(*arguments(tmp_path / "elsewhere"))
    assert code == ExitCode.RUN_FAILED, error
    before, after = contents(study / "out"), contents(tmp_path / "elsewhere" / "out")
    differing = {name for name in before | after if before.get(name) != after.get(name)}
    # Links to the datasets must say where these lie.
    assert differing == {"dataset_description.json", "manifest.tsv"}


#: What shows, beside the output folder, that a run has come so far.
MOMENTS = {
    "reading": "work/gmvae_wf/sub_01_wf/read_*/extract/_0x*_unfinished.json",
    "fitting": "work/gmvae_wf/sub_01_wf/fit_*/fit/_0x*_unfinished.json",
    "writing maps": "out/sub-01/dwi/*_dwimap.nii.gz",
    "drawing figures": "out/sub-01/figures/*.png",
    "reporting": "out/sub-01.html",
}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A run mapped by the default estimator, without disturbance."""
    root = tmp_path_factory.mktemp("mapped")
    tiny_dataset(root / "bids", "sub-01/dwi/sub-01")
    code, _, error = run(*arguments(root, "--estimator", "gmvae"))
    assert code == ExitCode.OK, error
    return root


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(mapped, tmp_path):
    out, expected = tmp_path / "out", contents(mapped / "out")
    command = arguments(mapped, "--estimator", "gmvae", root=tmp_path)
    for moment, sign in MOMENTS.items():
        process = start(*command)
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob(sign)):
            assert time.monotonic() < deadline, f"it never came to {moment}"
            assert process.poll() is None, f"it ended before {moment}"
            time.sleep(0.005)
        process.kill()
        process.communicate()
        wait_for_the_end_of(process.pid)
        for name, checksum in contents(out).items():
            assert TEMPORARY in name or checksum == expected[name], f"{name} while {moment}"
    (out / "sub-01" / "dwi" / f"{TEMPORARY}0123abcd-map.nii.gz").write_bytes(b"half")
    code, _, error = run(*command)
    assert code == ExitCode.OK, error
    assert contents(out) == expected


def test_the_whole_output_is_valid_bids(mapped, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(mapped / "out", out)
    work = ("-w", mapped / "work")
    code, _, error = run(mapped / "bids", out, "group", *work)
    assert code == ExitCode.OK, error
    assert validate(out) == []
    assert (out / "group.html").exists()
    assert (out / "sub-01" / "figures").is_dir()
    assert bids_errors(out) == []


@pytest.mark.slow
def test_a_stopped_run_says_so(study, tmp_path):
    process = start(*arguments(study, root=tmp_path))
    while not (tmp_path / "work" / "gmvae_wf").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped." in error
    assert "Traceback" not in error
    wait_for_the_end_of(process.pid)


@pytest.mark.slow
def test_a_read_only_home_and_another_plugin_do_no_harm(study, tmp_path):
    plugin = tmp_path / "plugin.yml"
    plugin.write_text("plugin: Linear\n")
    more = ("--use-plugin", plugin, "--write-graph", "--bids-filter-file", tmp_path / "f.json")
    (tmp_path / "f.json").write_text(json.dumps({"dwi": {"run": 1}}))
    code, out, error = run(*arguments(study, *more, root=tmp_path), HOME="/nonexistent")
    assert code == ExitCode.OK, error
    assert "1 run mapped." in out
    assert list(tmp_path.glob("out/logs/*/graph.dot"))


def test_a_dry_run_writes_nothing(study, tmp_path):
    code, out, error = run(
        study / "bids", tmp_path / "out", "participant", "-w", tmp_path / "work", "--dry-run=json"
    )
    assert code == ExitCode.OK, error
    content = json.loads(out)
    assert len(content["runs"]) == 3
    assert len(content["invalid"]) == 1
    assert not list(tmp_path.iterdir())


def test_invalid_input_has_its_code_and_no_traceback(tmp_path):
    (tmp_path / "bids").mkdir()
    code, _, error = run(tmp_path / "bids", tmp_path / "out", "participant", "-w", tmp_path / "w")
    assert code == ExitCode.INVALID_INPUT
    assert "sub-<label>" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_draws_are_refused_where_there_are_none(study, tmp_path):
    code, _, error = run(
        study / "bids", tmp_path / "out", "participant", "-w", tmp_path / "w",
        "--estimator", "lsq", "--posterior-samples", "2", "--dry-run",
    )  # fmt: skip
    assert code == ExitCode.INVALID_INPUT
    assert "the estimator lsq cannot draw" in error


def test_a_work_dir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "bids").mkdir()
    (tmp_path / "file").write_text("")
    work_dir = tmp_path / "file" / "work"
    code, _, error = run(tmp_path / "bids", tmp_path / "out", "group", "-w", work_dir)
    assert code == ExitCode.NO_SPACE
    assert f"The folder {work_dir} cannot be used: Not a directory." in error
    assert "Traceback" not in error


def test_an_output_dir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    settings = RunSettings(tmp_path, tmp_path / "file" / "out", "participant")
    with pytest.raises(StorageError, match="out cannot be used: Not a directory"):
        _start_logs(settings)


def test_a_group_without_participants_is_told(tmp_path):
    (tmp_path / "bids").mkdir()
    code, _, error = run(tmp_path / "bids", tmp_path / "out", "group", "-w", tmp_path / "w")
    assert code == ExitCode.NOTHING_ELIGIBLE
    assert "No participant is mapped" in error


@pytest.mark.parametrize(
    ("argv", "code"), [(["--version"], 0), (["--help"], 0), ([], 2), (["a", "b", "c"], 2)]
)
def test_the_command_line_alone_decides_at_once(argv, code, capsys):
    assert main(argv) == code


def test_the_version_needs_nothing_heavy():
    code = (
        "import sys; from bids_gmvae.cli.run import main; main(['--version']); "
        "sys.exit(bool({'torch', 'nipype', 'nibabel', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def outcome(code=None, stage="fit"):
    failures = () if code is None else (Failure(f"wf.{stage}", "", "", ExitCode(code), None),)
    return Outcome(planned_run(), failures)


INVALID = LeftOut("x", "broken", invalid=True)


@pytest.mark.parametrize(
    ("outcomes", "invalid", "report_failed", "code"),
    [
        ([outcome()], [], False, ExitCode.OK),
        ([outcome()], [], True, ExitCode.REPORT_FAILED),
        ([outcome(), outcome(5, "figures")], [], False, ExitCode.REPORT_FAILED),
        ([outcome(), outcome(7, "to_MNI")], [], False, ExitCode.RUN_FAILED),
        ([outcome(), outcome(7)], [], False, ExitCode.RUN_FAILED),
        ([outcome()], [INVALID], False, ExitCode.RUN_FAILED),
        ([outcome(7, "extract")], [INVALID], False, ExitCode.INVALID_INPUT),
        ([outcome(6), outcome(7)], [], False, ExitCode.DEVICE),
        ([outcome(75), outcome(6)], [], False, ExitCode.NO_SPACE),
        ([outcome(70)], [], False, ExitCode.INTERNAL),
    ],
)
def test_exit_codes_tell_what_became_of_the_runs(outcomes, invalid, report_failed, code):
    assert exit_code(outcomes, invalid, reports_failed=report_failed) == code


@pytest.mark.parametrize(
    ("told", "mapped"),
    [
        ({"gmvae_wf.sub_01_wf.write_run_1_msdki.write": "end"}, True),
        ({"gmvae_wf.sub_01_wf.write_run_1_msdki.write": "start"}, False),
        ({"gmvae_wf.sub_02_wf.write_run_1_msdki.write": "end"}, False),
        ({"gmvae_wf.sub_02_wf.read_run_1.extract": "exception"}, False),
        ({}, False),  # a plugin that tells nothing
    ],
)
def test_maps_of_an_earlier_call_are_not_those_of_this_one(told, mapped, tmp_path):
    planned = planned_run(run="1")
    write_text(tmp_path / planned.outputs[0], "of an earlier call")
    settings = RunSettings(tmp_path, tmp_path, "participant")
    earlier = _first_file(planned, settings)
    assert _confirmed(Outcome(planned), settings, told, earlier=earlier).mapped == mapped


def test_maps_count_that_a_plugin_wrote_without_telling(tmp_path):
    planned = planned_run(run="1")
    settings = RunSettings(tmp_path, tmp_path, "participant")
    assert not _confirmed(Outcome(planned), settings, {}, earlier=None).mapped
    write_text(tmp_path / planned.outputs[0], "of an earlier call")
    earlier = _first_file(planned, settings)
    write_text(tmp_path / planned.outputs[0], "of this call")
    assert _confirmed(Outcome(planned), settings, {}, earlier=earlier).mapped


def test_a_plugin_file_may_be_json_or_yaml(tmp_path):
    path = tmp_path / "plugin.json"
    path.write_text('{"plugin": "MultiProc", "plugin_args": {"n_procs": 3}}')
    options = read_plugin(path)
    assert options["plugin_args"] == {
        "n_procs": 3, "mp_context": "forkserver", "raise_insufficient": False,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["plugin: MultiPrc", "[1, 2", "other: 1"])
def test_a_wrong_plugin_file_is_refused(tmp_path, text):
    path = tmp_path / "plugin.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"plugin\.yml"):
        read_plugin(path)
