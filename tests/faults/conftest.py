"""Maps made without disturbance, to compare with; all processes of the tests share them."""

import time

import pytest

from bids_gmvae.exceptions import ExitCode
from tests.faults.processes import command, finish, made_once
from tests.tiny import tiny_dataset


def mapped(*stems):
    """Give what makes a dataset and its maps."""

    def make(root):
        tiny_dataset(root / "bids", *stems)
        begin = time.monotonic()
        code, said = finish(command(root / "bids", root))
        assert code == ExitCode.OK, said
        (root / "seconds").write_text(str(time.monotonic() - begin))

    return make


@pytest.fixture(scope="session")
def one_mapped(tmp_path_factory):
    """A dataset of one participant, in ``bids``, and its maps, in ``out``."""
    return made_once(tmp_path_factory, "one mapped", mapped("sub-01/dwi/sub-01"))


@pytest.fixture(scope="session")
def two_mapped(tmp_path_factory):
    """The same of two participants; how long it took is in ``seconds``."""
    stems = ("sub-01/dwi/sub-01", "sub-02/dwi/sub-02")
    return made_once(tmp_path_factory, "two mapped", mapped(*stems))
