"""Bad input: its exit code, one sentence about it, nothing half-written, nobody else harmed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bids_gmvae.exceptions import ExitCode
from bids_gmvae.io.atomic import TEMPORARY
from bids_gmvae.io.dataset import validate
from tests.faults.bench import AROUND, Bench, Place, contents, normalised
from tests.faults.page import CASES, PAGE, read_page, row_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The dataset that all cases start from, with the maps of its good participant."""
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def documented():
    """The rows of the page, by the name of the case."""
    return read_page(PAGE.read_text(encoding="utf-8"))


def test_there_are_sixty_distinct_cases_and_all_are_documented(documented):
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 60
    assert list(documented) == names


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.maps else [])
        for case in CASES
    ],
)
def test_bad_input_is_told_in_one_sentence_and_harms_nobody(
    case, bench, documented, record_property
):
    place, arguments = bench.prepare(case)
    before = contents(place.root)
    result = bench.call(place, arguments)
    (sentence,) = result.about(case.says)
    record_property("bad_input", (case.name, result.code, sentence))
    assert result.code == case.code, result.lines
    if case.code not in SOME_MAPPED:
        said = [line for line in result.lines if line != sentence]
        assert [line for line in said if not AROUND.fullmatch(line)] == []
    assert not any("Traceback" in line for line in result.lines)
    after = contents(place.root)
    assert {name: after.get(name) for name in before if name in kept(before)} == kept(before)
    if not case.maps:
        assert after == before
    mapped = [name for name in after if re.match("out/sub-02/dwi/.*_dwimap", name)]
    assert bool(mapped) == (case.maps and case.code in SOME_MAPPED)
    assert not [name for name in after if TEMPORARY in name]
    if after.get("out/manifest.tsv") != before.get("out/manifest.tsv"):
        assert validate(place.out) == []
    assert row_of(case, result.code, sentence) == documented[case.name]


#: Exit codes of calls that leave maps of the spoilt participant: of a run that is sound.
SOME_MAPPED = (ExitCode.OK, ExitCode.RUN_FAILED)


def kept(files):
    """Choose what a failing call may not touch: the input, and the good participant's maps."""
    ours = re.compile(r"bids/|out/sub-01/")
    return {name: digest for name, digest in files.items() if ours.match(name)}


#: Of these, every part of the process is real: its start, its console and its end.
IN_A_PROCESS = ("an empty .bval", "a cut gzip file", "an unknown signal model")


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_a_process_of_its_own_says_the_same(name, bench):
    (case,) = (case for case in CASES if case.name == name)
    place, arguments = bench.prepare(case)
    command = [sys.executable, "-m", "bids_gmvae", *arguments]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = normalised(process.stdout + process.stderr, place.root)
    result = bench.call(place, arguments)
    assert (process.returncode, said) == (result.code, result.lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["an empty .bval", "a negative volume"])
def test_debug_shows_the_traceback_beside_the_sentence(name, bench):
    (case,) = (case for case in CASES if case.name == name)
    place, arguments = bench.prepare(case)
    result = bench.call(place, [*arguments, "--debug"])
    assert result.code == case.code
    assert result.about(case.says)
    assert result.about(r"^Traceback \(most recent call last\):$")


@pytest.mark.slow
def test_all_bad_runs_at_once_leave_the_good_one_as_if_it_were_alone(bench, tmp_path):
    place = Place(tmp_path)
    shutil.copytree(bench.clean.bids, place.bids, symlinks=True)
    spoilt = [case for case in CASES if spoils_the_run(case, bench)]
    assert len(spoilt) >= 40
    for number, case in enumerate(spoilt):
        add_participant(bench, case, place, f"bad{number:02d}")
    shutil.rmtree(place.bids / "sub-02")
    result = bench.call(place, place.arguments())
    assert result.code == ExitCode.RUN_FAILED
    assert result.about(f"1 run mapped, {len(spoilt)} failed")
    good = {name: digest for name, digest in contents(place.out).items() if "sub-01" in name}
    clean = contents(bench.clean.out)
    assert good == {name: digest for name, digest in clean.items() if "sub-01" in name}
    for number, case in enumerate(spoilt):
        label = f"sub-bad{number:02d}"
        assert not list(place.out.glob(f"{label}/dwi/*_dwimap.nii.gz")), case.name
        assert (place.out / f"{label}.html").exists(), case.name
    assert validate(place.out) == []


def spoils_the_run(case, bench):
    """Tell whether a case lies in the files of one run alone."""
    if case.code != ExitCode.INVALID_INPUT:
        return False
    place, arguments = bench.prepare(case)
    before, after = contents(bench.clean.bids), contents(place.bids)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    plain = place.arguments("--participant-label", "02", *([] if case.maps else ["--dry-run"]))
    known = re.compile(r"(derivatives/masks/)?sub-02/dwi/sub-02_(dwi|desc-brain_mask)\.")
    return arguments == plain and bool(changed) and all(map(known.match, changed))


def add_participant(bench, case, place, label):
    """Copy the spoilt run of a case into a dataset, as a participant of its own."""
    source, _ = bench.prepare(case)
    for folder in ("", "derivatives/masks/"):
        for path in (source.bids / f"{folder}sub-02").rglob("*"):
            if path.is_file() or path.is_symlink():
                name = path.relative_to(source.bids).as_posix().replace("sub-02", f"sub-{label}")
                target = place.bids / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target, follow_symlinks=False)
