import errno
import fcntl
import gzip
import json
import logging
import os
import threading
from contextlib import ExitStack

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.exceptions import StorageError
from bids_gmvae.io import atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = atomic.write_text(tmp_path / "a.txt", "old")

    def write_half():
        with atomic.atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_is_hidden_beside_its_target_and_keeps_its_extension(tmp_path):
    with atomic.atomic_write(tmp_path / "new" / "map.nii.gz") as temporary:
        assert temporary.parent == tmp_path / "new"
        assert temporary.name.startswith(".")
        assert temporary.name.endswith("map.nii.gz")
        temporary.write_bytes(b"")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["map.nii.gz"]


def test_written_files_honour_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = atomic.write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_writing_over_a_read_only_link_replaces_the_link(tmp_path):
    # Files in a git-annex are links to read-only content.
    content = tmp_path / "annexed"
    content.write_text("old")
    content.chmod(0o444)
    link = tmp_path / "a.txt"
    link.symlink_to(content)
    atomic.write_text(link, "new")
    assert not link.is_symlink()
    assert (link.read_text(), content.read_text()) == ("new", "old")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "not permitted"),
        (errno.EROFS, "read-only"),
    ],
)
def test_storage_problems_are_told_in_a_sentence(tmp_path, monkeypatch, number, sentence):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(StorageError, match=sentence):
        atomic.write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_input_is_not_blamed_on_the_output(tmp_path):
    with (
        pytest.raises(PermissionError, match="denied"),
        atomic.atomic_write(tmp_path / "out" / "a.txt"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.nii.gz")


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    with (
        pytest.raises(IsADirectoryError, match=r"a\.txt"),
        atomic.atomic_write(tmp_path / "a.txt"),
    ):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), "a.txt")


def test_only_what_no_process_writes_any_more_is_abandoned(tmp_path):
    (tmp_path / ".tmp-0123abcd-a.txt").write_text("half")
    with atomic.atomic_write(tmp_path / "b.txt") as temporary:
        atomic.remove_abandoned(tmp_path)
        assert list(tmp_path.iterdir()) == [temporary]
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_what_is_abandoned_is_removed_from_nfs_too(tmp_path, monkeypatch):
    # There, locks of a file that is not open for writing are refused.
    flock = atomic.fcntl.flock

    def strict(file, how):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, how)

    monkeypatch.setattr(atomic.fcntl, "flock", strict)
    (tmp_path / ".tmp-0123abcd-a.txt").write_text("half")
    atomic.remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with atomic.locked(tmp_path) as held:
        assert held


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_work_goes_on(tmp_path, monkeypatch, number):
    def refuse(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    with atomic.locked(tmp_path) as held:
        assert not held


def test_what_else_is_wrong_with_a_lock_is_not_hidden(tmp_path, monkeypatch):
    def fail(file, how):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic.fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), atomic.locked(tmp_path):
        pass


def test_who_waits_long_says_so_once_and_gets_the_lock_in_the_end(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(atomic, "SILENCE", 0.0)
    monkeypatch.setattr(atomic, "PAUSE", 0.02)
    holder = ExitStack()
    holder.enter_context(atomic.locked(tmp_path))
    timer = threading.Timer(0.2, holder.close)
    timer.start()
    with atomic.locked(tmp_path) as held:
        assert held
    timer.join()
    (said,) = caplog.messages
    assert said.startswith("Waiting for other processes, which hold")


def test_nobody_is_told_to_delete_a_lock_that_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "PATIENCE", 0.0)
    monkeypatch.setattr(atomic, "PAUSE", 0.01)
    with (
        atomic.locked(tmp_path),
        pytest.raises(StorageError, match=r"dataset\.lock.*Deleting it does not help.*end it"),
        atomic.locked(tmp_path),
    ):
        pass


def test_a_lock_that_was_deleted_before_it_was_held_is_worth_nothing(tmp_path, monkeypatch):
    flock = atomic.fcntl.flock
    path = tmp_path / "logs" / ".dataset.lock"

    def too_late(file, how):
        monkeypatch.undo()
        path.unlink()
        flock(file, how)

    monkeypatch.setattr(atomic, "PAUSE", 0.01)
    monkeypatch.setattr(atomic.fcntl, "flock", too_late)
    with atomic.locked(tmp_path):
        assert path.exists()


def test_a_file_taken_for_abandoned_before_it_was_locked_is_begun_anew(tmp_path, monkeypatch):
    flock = atomic.fcntl.flock

    def too_late(file, how):
        monkeypatch.undo()
        atomic.remove_abandoned(tmp_path)
        flock(file, how)

    monkeypatch.setattr(atomic.fcntl, "flock", too_late)
    assert atomic.write_text(tmp_path / "a.txt", "text").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_without_errno_is_recognised(tmp_path, monkeypatch):
    usage = atomic.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage._replace(free=0))
    with pytest.raises(StorageError, match="no space"), atomic.atomic_write(tmp_path / "fit.pt"):
        raise RuntimeError("PytorchStreamWriter failed writing file")


def test_a_runtime_error_with_space_left_is_not_a_storage_error(tmp_path):
    with pytest.raises(RuntimeError, match="bug"), atomic.atomic_write(tmp_path / "fit.pt"):
        raise RuntimeError("bug")


def test_equal_images_give_equal_bytes_without_time_or_name(tmp_path):
    data = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    first = atomic.write_image(tmp_path / "a.nii.gz", nb.Nifti1Image(data, np.eye(4)))
    second = atomic.write_image(tmp_path / "b.nii.gz", nb.Nifti1Image(data, np.eye(4)))
    assert first.read_bytes() == second.read_bytes()
    flags, time = first.read_bytes()[3], first.read_bytes()[4:8]
    assert flags == 0
    assert time == b"\0\0\0\0"
    plain = atomic.write_image(tmp_path / "c.nii", nb.Nifti1Image(data, np.eye(4)))
    assert gzip.decompress(first.read_bytes()) == plain.read_bytes()
    np.testing.assert_array_equal(nb.load(first).get_fdata(dtype=np.float32), data)


def test_absent_values_become_not_available_and_tables_read_back(tmp_path):
    rows = [{"a": 1, "b": float("nan")}, {"a": None, "c": "x y"}, {"a": True, "b": 1 / 3}]
    path = atomic.write_tsv(tmp_path / "t.tsv", rows)
    assert path.read_text().splitlines()[0] == "a\tb\tc"
    assert atomic.read_tsv(path) == [
        {"a": "1", "b": "n/a", "c": "n/a"},
        {"a": "n/a", "b": "n/a", "c": "x y"},
        {"a": "true", "b": "0.333333", "c": "n/a"},
    ]


def test_json_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "a.json", {"a": float("nan")})
    path = atomic.write_json(tmp_path / "b.json", {"unit": "µm"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"unit": "µm"}
    assert list(tmp_path.iterdir()) == [path]
