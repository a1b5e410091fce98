"""The work directory: claims on participants, and what is left in it."""

import logging
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from bids_gmvae.cli.workdir import claimed, claimed_outputs, clean
from bids_gmvae.exceptions import ExitCode, StorageError
from tests.tiny import tiny_dataset

OTHER = """
import sys
from pathlib import Path
from bids_gmvae.cli.workdir import claimed
with claimed(Path(sys.argv[1]), sys.argv[2:]):
    print("claimed", flush=True)
    sys.stdin.read()
"""

CLEAN = """
import sys
from pathlib import Path
from bids_gmvae.cli.workdir import clean
clean(Path(sys.argv[1]))
"""
#: The first call of a function waits for a word from outside.
HELD_UP = """
import fcntl, os, shutil, sys
original = {function}
def held_up(*arguments, **options):
    {function} = original
    print("held up", flush=True)
    sys.stdin.readline()
    return original(*arguments, **options)
{function} = held_up
"""


@contextmanager
def held_up(function, code, *arguments):
    """Run code in another process, as far as its first call of a function."""
    with subprocess.Popen(
        [sys.executable, "-c", HELD_UP.format(function=function) + code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "held up\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def other(tmp_path):
    """Another process that computes sub-01 and sub-02."""
    command = [sys.executable, "-c", OTHER, str(tmp_path), "sub-01", "sub-02"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_participant_is_claimed_until_its_process_ends_however_it_does(other, tmp_path):
    with (
        pytest.raises(StorageError, match="Another process computes sub-02"),
        claimed(tmp_path, ["sub-03", "sub-02"]),
    ):
        pass
    with claimed(tmp_path, ["sub-03"]):
        pass
    other.kill()
    other.wait()
    with claimed(tmp_path, ["sub-01", "sub-02"]):
        pass


def test_participants_of_an_output_folder_are_claimed_apart_from_those_of_others(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    code = OTHER.replace("claimed(Path", "claimed_outputs(Path").replace(
        "import claimed", "import claimed_outputs"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out), "sub-01"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "claimed\n"
        with (
            pytest.raises(StorageError, match=f"Another process maps sub-01 into {out}"),
            claimed_outputs(out, ["sub-01"]),
        ):
            pass
        with claimed_outputs(out, ["sub-02"]), claimed_outputs(elsewhere, ["sub-01"]):
            pass
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_work_directory_of_another_user_is_refused(tmp_path):
    folder = tmp_path / "gmvae_wf"
    folder.mkdir()
    os.chown(folder, 12345, -1)
    with (
        pytest.raises(StorageError, match=r"must belong to who runs the app .* of user 12345"),
        claimed(tmp_path, ["sub-01"]),
    ):
        pass


def test_thousands_of_participants_are_claimed_at_once(tmp_path):
    with claimed(tmp_path, [f"sub-{number:05}" for number in range(5000)]):
        pass


def test_a_folder_where_another_process_computes_is_not_emptied(other, tmp_path):
    work = tmp_path / "gmvae_wf/sub_01_wf"
    work.mkdir()
    with pytest.raises(StorageError, match=r"computes in .* cannot be emptied"):
        clean(tmp_path)
    assert work.exists()
    other.kill()
    other.wait()
    clean(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_claimed_while_another_process_still_empties_the_folder_stays(tmp_path):
    old, new = (tmp_path / "gmvae_wf" / name for name in ("old_wf", "sub_01_wf"))
    old.mkdir(parents=True)
    (old / "maps").touch()
    with held_up("os.unlink", CLEAN, tmp_path) as cleaner, claimed(tmp_path, ["sub-01"]):
        new.mkdir()
        cleaner.communicate("go on\n", timeout=60)
        assert cleaner.returncode == 0
        assert new.exists()
    assert not list(tmp_path.rglob("maps"))


def test_a_lock_file_that_was_removed_before_it_was_locked_counts_for_nothing(tmp_path):
    with held_up("fcntl.lockf", OTHER, tmp_path, "sub-01") as late:
        clean(tmp_path)
        with claimed(tmp_path, ["sub-01"]):
            said, error = late.communicate("go on\n", timeout=60)
    assert said == ""
    assert "Another process computes sub-01" in error


def test_a_lock_file_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "gmvae_wf").write_text("")
    with (
        pytest.raises(StorageError, match=r"gmvae_wf/\.lock cannot be made"),
        claimed(tmp_path, []),
    ):
        pass


def test_what_cannot_be_removed_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("bids_gmvae"), "propagate", True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "gmvae_prior").symlink_to("elsewhere")
    clean(tmp_path)
    assert "The work directory could not be emptied: Cannot call rmtree" in caplog.text
    assert (tmp_path / "elsewhere").exists()


def test_a_clean_work_directory_keeps_the_files_of_others_and_nothing_else(tmp_path):
    tiny_dataset(tmp_path / "bids", "sub-01/dwi/sub-01")
    work = tmp_path / "work"
    for name in ("gmvae_wf/old", "scratch_of_somebody"):
        (work / name).mkdir(parents=True)
    arguments = ("bids", "out", "participant", "-w", "work", "--estimator", "lsq")
    done = subprocess.run(
        [sys.executable, "-m", "bids_gmvae", *arguments, "--clean-workdir"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    assert list((tmp_path / "out").glob("sub-01/dwi/*_param-msd_desc-mean_dwimap.nii.gz"))
    assert list(work.rglob("*")) == [work / "scratch_of_somebody"]
