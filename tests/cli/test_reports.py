"""Pages of participants, where something stands in their way."""

import errno
import os
from pathlib import Path

from bids_gmvae.cli.reports import write_subject_reports
from bids_gmvae.report.reportlets import write_reportlets
from tests.report.phantoms import make_result


def test_a_page_is_told_even_if_the_earlier_one_cannot_be_removed(tmp_path, monkeypatch):
    write_reportlets(make_result(shape=(7, 8, 1)), tmp_path)
    (earlier,), _ = write_subject_reports(tmp_path, ["01"], level="subject")
    unlink = Path.unlink

    def refuse(path, **options):  # as in a folder of somebody else, root apart
        if path == earlier:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    pages, (failure,) = write_subject_reports(tmp_path, ["01"])
    assert pages == [tmp_path / "sub-01.html"]
    assert pages[0].is_file()
    assert failure.startswith(
        "The earlier report of sub-01 could not be removed: Permission denied"
    )
