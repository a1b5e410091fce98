"""What becomes of compiled code that was kept, and is damaged or out of reach."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from numba import types

from bids_gmvae.signal_models import compiled
from bids_gmvae.signal_models.compiled import jit

SIGNATURE = types.float64(types.float64)


def compile_again(signature=SIGNATURE):
    """Compile a function as a process does that starts anew."""

    @jit(signature)
    def double(x):
        return 2 * x

    assert double(1.5) == 3
    return double


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder that holds the function."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    compiled._warn_of.cache_clear()
    compile_again()
    return tmp_path


def file_of(folder, extension):
    (path,) = folder.rglob(f"*{extension}")
    return path


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_was_compiled_is_read_the_next_time(kept, caplog):
    assert sum(compile_again().stats.cache_hits.values()) == 1
    assert warnings(caplog) == []


@pytest.mark.parametrize("signature", [SIGNATURE, None])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("extension", [".nbi", ".nbc"])
def test_a_damaged_file_is_compiled_and_written_again(kept, caplog, extension, share, signature):
    if signature is None:  # compiled at the first call, and kept under other types
        shutil.rmtree(kept)
        compile_again(None)
    cut(file_of(kept, extension), share)
    assert not compile_again(signature).stats.cache_hits
    (warning,) = warnings(caplog)
    assert str(kept) in warning
    assert sum(compile_again(signature).stats.cache_hits.values()) == 1


def test_a_file_of_zeros_is_compiled_and_written_again(kept, caplog):
    for extension in (".nbi", ".nbc"):
        path = file_of(kept, extension)
        path.write_bytes(bytes(path.stat().st_size))
    compile_again()
    assert len(warnings(caplog)) == 1
    assert sum(compile_again().stats.cache_hits.values()) == 1


def test_files_out_of_reach_are_told_of_once(kept, caplog):
    index = file_of(kept, ".nbi")
    index.unlink()
    index.mkdir()  # neither read nor replaced
    for _ in range(2):
        assert not compile_again().stats.cache_hits
    (warning,) = warnings(caplog)
    assert str(kept) in warning


def test_a_full_disk_does_not_stop_a_run(tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", full)
    compiled._warn_of.cache_clear()
    compile_again()
    assert len(warnings(caplog)) == 1


@pytest.mark.slow  # compiles
def test_a_process_works_whatever_was_damaged(tmp_path):
    code = (
        "import logging\n"
        "logging.basicConfig()\n"
        "from bids_gmvae.signal_models.compiled import ball_stick, exp\n"
        "print(exp(1.0))\n"
    )

    def run():
        return subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            timeout=120,
        )

    first = run()
    paths = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc"))
    assert len(paths) > 4
    for number, path in enumerate(paths):
        cut(path, (0, 0.5)[number % 2])
    second, third = run(), run()
    assert first.stdout == second.stdout == third.stdout
    assert [text.stderr.count("WARNING") for text in (first, second, third)] == [0, 1, 0]
    assert str(tmp_path) in second.stderr
