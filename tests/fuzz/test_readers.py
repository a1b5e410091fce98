"""A bounded run of the fuzzer; it stops at the first input that a reader cannot cope with."""

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


def test_whatever_a_file_holds_it_is_a_table_or_a_plain_error(tmp_path):
    pytest.importorskip("atheris", reason="no fuzzer for this Python")
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
