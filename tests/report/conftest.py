from pathlib import Path

import pytest

from bids_gmvae.report.reportlets import write_reportlets
from tests.report.phantoms import make_result


@pytest.fixture(scope="session")
def mapped(tmp_path_factory) -> Path:
    """An output dataset with the reportlets of one small run of sub-01; not to be changed."""
    out_dir = tmp_path_factory.mktemp("out")
    write_reportlets(make_result(shape=(10, 12, 3)), out_dir)
    return out_dir
