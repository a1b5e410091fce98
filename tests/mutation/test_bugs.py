import pytest

from tests.mutation.bugs import BUGS, ROOT


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_still_finds_its_place_and_its_tests(bug):
    source = (ROOT / "bids_gmvae" / bug.file).read_text(encoding="utf-8")
    assert source.count(bug.old) == 1
    assert bug.new != bug.old
    for test in bug.tests:
        assert (ROOT / "tests" / test).is_file()


def test_the_bugs_are_many_and_different():
    assert len({(bug.file, bug.old, bug.new) for bug in BUGS}) == len(BUGS) >= 20
