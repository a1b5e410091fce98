"""Runs that are killed: nothing that was finished is lost, and the end is the same."""

import itertools
import os
import random
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bids_gmvae.cli.run import SIGNALLED
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.io.dataset import validate
from tests.faults.bench import contents
from tests.faults.processes import PATIENCE, command, complete, end_of, finish, start

pytestmark = pytest.mark.slow

#: In each of two tests, which run beside each other.
N_KILLS = 15
#: How a run may be ended from outside, and what the command gives then.
SIGNALS = {
    signal.SIGKILL: -signal.SIGKILL,
    signal.SIGTERM: SIGNALLED + signal.SIGTERM,
    signal.SIGINT: SIGNALLED + signal.SIGINT,
}


def ask(process, number):
    """Send what ends a process; all but SIGKILL as users and schedulers do, to all of a run."""
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)


def when(process, condition, interval=0.05):
    """Wait until something is so while a process runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(interval)


@pytest.mark.parametrize(("seed", "undisturbed"), [(0, "one_mapped"), (1, "two_mapped")])
def test_thirty_kills_at_random_moments_lose_nothing(
    seed, undisturbed, request, tmp_path, record_property
):
    root, out = request.getfixturevalue(undisturbed), tmp_path / "out"
    duration = float((root / "seconds").read_text())
    expected, there = contents(root / "out"), {}
    generator, left = random.Random(seed), list(SIGNALS) * (N_KILLS // len(SIGNALS))
    # Each call writes these: the first as it begins, the other once it knows what to map. Not
    # while Python itself starts: it has no words of ours yet.
    settings = tmp_path / "work/gmvae_cache/nipype/nipype.cfg"
    while left:
        settings.unlink(missing_ok=True)
        logs = set(out.glob("logs/*/config.toml"))
        begin = time.monotonic()
        process = start(command(root / "bids", tmp_path))
        when(process, settings.exists)
        if generator.random() < 0.5:
            when(process, lambda logs=logs: set(out.glob("logs/*/config.toml")) - logs)
        # A part of the time is enough: about half of it is needed to find what to map, and what
        # is finished by then is not done again.
        time.sleep(generator.uniform(0, duration / 3))
        ended = process.poll() is not None
        after = time.monotonic() - begin
        if not ended:
            ask(process, left[-1])
        said = end_of(process)
        if ended or process.returncode == ExitCode.OK:  # it came to its end: start anew
            # The machine was busier when the undisturbed run was timed.
            duration = min(duration, time.monotonic() - begin)
            shutil.rmtree(tmp_path / "work")
            number = None
        else:
            number = left.pop()
            assert process.returncode == SIGNALS[number], said
        assert "Internal error" not in said
        assert "Traceback" not in said, said
        now = complete(out)
        for name, digest in now.items():
            # These are written anew as participants come to their end.
            if name not in ("manifest.tsv", "dataset_description.json"):
                assert digest == expected[name], name
        lost = there.keys() - now.keys()
        assert not lost
        there = now
        if number is not None:
            last = said.strip().splitlines()[-1:] or [""]
            row = (number.name, after, process.returncode, len(now), len(lost), last[0])
            record_property("kill", row)
    code, said = finish(command(root / "bids", tmp_path))
    assert code == ExitCode.OK, said
    assert contents(out) == expected
    assert validate(out) == []


def test_an_impatient_user_is_told_once(one_mapped, tmp_path):
    process = start(command(one_mapped / "bids", tmp_path))
    when(process, lambda: list(tmp_path.glob("work/gmvae_wf/sub_*_wf")))
    with suppress(ProcessLookupError):  # it may be at its end by then
        for _ in range(20):
            ask(process, signal.SIGINT)
            time.sleep(0.1)
    said = end_of(process)
    assert process.returncode == SIGNALS[signal.SIGINT], said
    assert said.endswith("Stopped. The same command goes on where this one ended.\n")
    assert "Traceback" not in said


def workers_of(process):
    """Find the processes that compute: children of the server that they are forked from."""
    servers = psutil.Process(process.pid).children()
    return [worker for server in servers for worker in server.children()]


def test_a_worker_killed_for_its_memory_is_told_and_its_work_repeated(one_mapped, tmp_path):
    process = start(command(one_mapped / "bids", tmp_path, "--nprocs", "1"))
    when(process, lambda: list(tmp_path.glob("work/gmvae_wf/sub_*_wf/fit_*/fit/_0x*.json")))
    for worker in workers_of(process):
        worker.kill()
    said = end_of(process)
    assert process.returncode == ExitCode.RUN_FAILED, said
    assert "A worker process was killed, most likely because memory ran out." in said
    assert "Traceback" not in said
    code, said = finish(command(one_mapped / "bids", tmp_path))
    assert code == ExitCode.OK, said
    assert contents(tmp_path / "out") == contents(one_mapped / "out")


def stopped_in(process, place):
    """Wait until a worker computes in such a folder, and stop it there."""
    found = []

    def look():
        # Workers come and go.
        with suppress(psutil.NoSuchProcess):
            for worker in workers_of(process):
                if worker.status() == psutil.STATUS_STOPPED:
                    continue
                worker.suspend()
                if place in worker.cwd():
                    found.append(worker)
                    break
                worker.resume()
        return found

    when(process, look, interval=0.01)
    return found[0]


def test_a_worker_that_is_killed_twice_costs_its_run_only(two_mapped, tmp_path):
    # With one thread each, no step of one participant waits for a processor of the other's.
    process = start(command(two_mapped / "bids", tmp_path, "--omp-nthreads", "1"))
    guilty = stopped_in(process, "sub_01_wf/fit_dwi_msdki/fit")
    innocent = stopped_in(process, "sub_02_wf")
    guilty.kill()
    # A pool watches its newest worker from the next event on, which may be the other one's result.
    latest = time.monotonic() + 20
    crashes = tmp_path / "out/logs"
    when(
        process,
        lambda: len(list(crashes.glob("*/crash-*.txt"))) == 2 or time.monotonic() > latest,
    )
    innocent.resume()
    stopped_in(process, "sub_01_wf").kill()
    said = end_of(process)
    assert process.returncode == ExitCode.RUN_FAILED, said
    assert "Whatever it met is repeated, one at a time" in said
    assert re.search(r"sub-01.*: A worker process was killed, most likely because memory", said)
    assert not re.search(r"sub-02.*: A worker process was killed", said)
    assert "1 run mapped, 1 failed" in said
    outputs, undisturbed = contents(tmp_path / "out"), contents(two_mapped / "out")
    of_innocent = {name for name in undisturbed if name.startswith("sub-02")}
    assert {name: outputs.get(name) for name in of_innocent} == {
        name: undisturbed[name] for name in of_innocent
    }
    assert not [name for name in outputs if name.startswith("sub-01/dwi")]


def test_workers_that_stand_still_are_told_and_ended_and_their_work_repeated(one_mapped, tmp_path):
    process = start(command(one_mapped / "bids", tmp_path, "--stall-timeout", "0.05"))
    when(process, lambda: list(tmp_path.glob("work/gmvae_wf/sub_*_wf/fit_*/fit/_0x*.json")))
    for worker in workers_of(process):
        worker.suspend()
    said = end_of(process)
    assert process.returncode == ExitCode.RUN_FAILED, said
    # Whatever they had come to by then, such as fitting.
    assert re.search(r"sub-01.*: .* stands still: for 0\.5 s, nothing was computed", said)
    assert re.search(r"sub-01.*: .* stands still: for 3\.0 s, .* are ended", said)
    assert re.search(r"sub-01 .*It stood still, and was ended: it neither computed, read", said)
    assert "Traceback" not in said
    code, said = finish(command(one_mapped / "bids", tmp_path))
    assert code == ExitCode.OK, said
    assert contents(tmp_path / "out") == contents(one_mapped / "out")


def before_anything(folder, code):
    """Give an environment in which all processes run some code before anything else."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    }


#: A clock that jumps by so many seconds for each of some files that is there.
CLOCK = """
import os, time
true, true_ns, jumps = time.time, time.time_ns, {jumps!r}
def shift(): return sum(seconds for sign, seconds in jumps.items() if os.path.exists(sign))
time.time = lambda: true() + shift()
time.time_ns = lambda: true_ns() + shift() * 10**9
"""


def test_a_clock_that_jumps_during_a_run_changes_nothing(one_mapped, tmp_path):
    begin, future = int(time.time()), 4 * 10**9
    jumps = {str(tmp_path / "to 2096"): future - begin, str(tmp_path / "to 1970"): -future}
    environment = before_anything(tmp_path / "clock", CLOCK.format(jumps=jumps))
    process = start(command(one_mapped / "bids", tmp_path), **environment)
    moments = ("work/gmvae_wf/sub_*_wf/fit_*/fit", "out/sub-01/dwi/*_dwimap.nii.gz")
    for sign, moment in zip(jumps, moments, strict=True):
        when(process, lambda moment=moment: list(tmp_path.glob(moment)))
        Path(sign).touch()
    said = end_of(process)
    assert process.returncode == ExitCode.OK, said
    (log,) = tmp_path.glob("out/logs/*/bids_gmvae.log")
    years = re.findall(r"^(\d{4})-\d\d-\d\d ", log.read_text(), re.MULTILINE)
    assert {int(year) for year in years} == {
        time.localtime(moment).tm_year for moment in (begin, future, 0)
    }
    assert contents(tmp_path / "out") == contents(one_mapped / "out")
    assert validate(tmp_path / "out") == []


def test_files_of_another_age_are_taken_for_what_they_are(one_mapped, tmp_path):
    shutil.copytree(one_mapped / "out", tmp_path / "out")
    shutil.copytree(one_mapped / "work", tmp_path / "work")
    for moment, path in zip(itertools.cycle([0, 4e9, None]), sorted(tmp_path.rglob("*"))):
        if path.is_file() and moment is not None:
            os.utime(path, (moment, moment))
    code, said = finish(command(one_mapped / "bids", tmp_path))
    assert code == ExitCode.OK, said
    assert contents(tmp_path / "out") == contents(one_mapped / "out")
    assert validate(tmp_path / "out") == []


def test_two_processes_on_one_output_do_each_other_no_harm(two_mapped, tmp_path):
    calls = [
        command(
            two_mapped / "bids", tmp_path, "-w", tmp_path / label, "--participant-label", label
        )
        for label in ("01", "02")
    ]
    for process in [start(call) for call in calls]:
        said = end_of(process)
        assert process.returncode == ExitCode.OK, said
    assert contents(tmp_path / "out") == contents(two_mapped / "out")
    assert validate(tmp_path / "out") == []


def test_a_second_process_on_one_participant_is_refused(one_mapped, tmp_path):
    first = start(command(one_mapped / "bids", tmp_path))
    when(first, lambda: list(tmp_path.glob("work/gmvae_wf/sub_*_wf")))
    os.killpg(first.pid, signal.SIGSTOP)  # it must not come to its end meanwhile
    # Its maps would be mixed with those of the first.
    elsewhere = ("-w", tmp_path / "elsewhere", "--signal-model", "ball_stick")
    others = [start(command(one_mapped / "bids", tmp_path, *more)) for more in ((), elsewhere)]
    refused = (
        "Another process computes sub-01 in the work directory",
        f"Another process maps sub-01 into {tmp_path / 'out'}",
    )
    try:
        for other, sentence in zip(others, refused, strict=True):
            said = end_of(other)
            assert other.returncode == ExitCode.NO_SPACE, said
            assert sentence in said
            assert "Traceback" not in said
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    said = end_of(first)
    assert first.returncode == ExitCode.OK, said
    assert contents(tmp_path / "out") == contents(one_mapped / "out")


def test_group_calls_beside_each_other_and_a_participant_call_give_the_same(one_mapped, tmp_path):
    shutil.copytree(one_mapped / "out", tmp_path / "out")
    mapping = command(one_mapped / "bids", tmp_path)
    group = ["group" if argument == "participant" else argument for argument in mapping]
    for process in [start(call) for call in (mapping, group, group)]:
        said = end_of(process)
        assert process.returncode == ExitCode.OK, said
    together = contents(tmp_path / "out")
    code, said = finish(group)
    assert code == ExitCode.OK, said
    assert contents(tmp_path / "out") == together
    assert validate(tmp_path / "out") == []
    # Else there would be no table to be wrong.
    assert together.keys() - contents(one_mapped / "out").keys() >= {"group.html"}


def test_what_another_version_left_in_the_work_directory_is_computed_anew(one_mapped, tmp_path):
    other = before_anything(
        tmp_path / "older", 'import bids_gmvae\nbids_gmvae.__version__ = "0.0.1"\n'
    )
    code, said = finish(
        command(one_mapped / "bids", tmp_path, "--participant-label", "01"), **other
    )
    assert code == ExitCode.OK, said
    assert '"0.0.1"' in (tmp_path / "out/dataset_description.json").read_text()
    shutil.rmtree(tmp_path / "out")
    code, said = finish(command(one_mapped / "bids", tmp_path))
    assert code == ExitCode.OK, said
    assert "sub-01: fitting" in said
    assert contents(tmp_path / "out") == contents(one_mapped / "out")
