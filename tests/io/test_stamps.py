"""Whether files are what they were."""

import os

import pytest

from bids_gmvae.exceptions import GMVAEError
from bids_gmvae.io.stamps import Stamp, from_plain, stamped, stamps_of, to_plain


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "map.nii.gz"
    path.write_bytes(b"values")
    return path


def replace_by(path, content):
    """Put another file in its place, as all writers of the app do."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def test_content_decides_and_times_are_renewed(path):
    stamp = Stamp.of(path)
    assert stamp.renewed(path) == stamp
    os.utime(path, ns=(0, 0))
    renewed = stamp.renewed(path)
    assert renewed.sha256 == stamp.sha256
    assert renewed.seen != stamp.seen
    assert renewed == Stamp.of(path)


def test_other_content_of_equal_size_and_time_is_noticed(path):
    stamp, before = Stamp.of(path), path.stat()
    path.write_bytes(b"valueX")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stamp.renewed(path) is None


def test_that_a_file_is_missing_is_a_state_too(path, tmp_path):
    present, absent = Stamp.of(path), Stamp.of(tmp_path / "missing")
    assert absent.fits(tmp_path / "missing")
    assert not absent.fits(path)
    assert not present.fits(tmp_path / "missing")


def test_who_reads_a_file_may_see_it_replaced_by_its_equal(path):
    with stamped([path]) as stamps:
        replace_by(path, b"values")
    assert stamps.keys() == {path}


@pytest.mark.parametrize("change", [lambda path: replace_by(path, b"other"), os.unlink])
def test_who_reads_a_file_must_not_see_it_changed(path, change):
    with pytest.raises(GMVAEError, match="was changed while it was mapped"), stamped([path]):
        change(path)


def test_stamps_survive_as_plain_values(path, tmp_path):
    stamps = stamps_of([path, tmp_path / "missing"])
    assert from_plain(to_plain(stamps)) == stamps
