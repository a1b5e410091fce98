"""A bounded run of the fuzzer; it stops at the first input that a reader cannot cope with."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bids_tree import directions, text_of
from tests.tiny import BVALS

ROOT = Path(__file__).parents[2]
#: How long the fuzzer looks for trouble, and how long a single input may take, s.
SECONDS, HANG = 10, 5
#: Branches of the readers that the seeds reach at the least; they reach 43.
MOSTLY_SEEN = 30

SEEDS = {
    "bval": text_of(BVALS).encode(),
    "bvec": text_of(directions(len(BVALS)).T).encode(),
    "b": b"0 0 1 0\n1 0 0 1000 # comment\n",
    "json": b'{"EchoTime": [0.08, 1e-3], "Name": "\xc3\xa9"}',
    "utf16": "0 1000".encode("utf-16"),
    "annex": b"/annex/objects/MD5E-s0--0.bval\n",
    "numbers": b"nan inf -inf 1e999 0x10 1_000 \xd9\xa1",
    "json numbers": b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": [[[[]]]]}',
}


def require_fuzzer():
    """Skip without the fuzzer; in CI fail, where there is one: nobody would miss the test."""
    try:
        import atheris  # noqa: F401
    except ImportError as error:
        there_is_one = sys.platform == "linux" and sys.version_info < (3, 14)
        stop = pytest.fail if "CI" in os.environ and there_is_one else pytest.skip
        stop(f"no fuzzer: {error}")


def test_whatever_a_file_holds_it_is_a_table_or_a_plain_error(tmp_path):
    require_fuzzer()
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, content in SEEDS.items():
        (corpus / name).write_bytes(content)
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz.readers", str(corpus), "-seed=1", "-max_len=4096",
            f"-max_total_time={SECONDS}", f"-timeout={HANG}", f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    tried = re.search(r"Done (\d+) runs", done.stderr)
    assert int(tried[1]) > 1000
    # Without coverage to go by, libFuzzer runs all the same, but blindly.
    known = re.search(r"INITED cov: (\d+)", done.stderr)
    reached = re.search(r"DONE +cov: (\d+)", done.stderr)
    assert known, "the readers are not instrumented"
    assert int(known[1]) > MOSTLY_SEEN
    assert int(reached[1]) > int(known[1])


@pytest.mark.parametrize(
    ("environment", "version", "fails"),
    [({"CI": "true"}, (3, 13), True), ({"CI": "true"}, (3, 14), False), ({}, (3, 13), False)],
)
def test_a_fuzzer_that_is_missing_is_missed_in_ci(monkeypatch, environment, version, fails):
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(pytest.fail.Exception if fails else pytest.skip.Exception, match="atheris"):
        require_fuzzer()
