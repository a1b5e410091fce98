"""Readers of text files of a dataset, under a coverage-guided fuzzer.

``python -m tests.fuzz.readers CORPUS [libFuzzer options]``: whatever a file holds, a reader gives
a valid table or raises `InputError`. Any other exception ends the process, and so does a hang.
"""

import sys
import tempfile
from pathlib import Path

from bids_gmvae.exceptions import InputError


def read_anything(path: Path) -> None:
    """Let every reader read a file, and check what they give."""
    for reader in (check_bvals, check_bvecs, check_b, check_json):
        try:
            reader(path)
        except InputError as error:
            if str(path) not in str(error):
                raise RuntimeError("The file is not named.") from error


# The readers are imported late: the fuzzer follows code that is imported under its eyes.


def check_bvals(path: Path) -> None:
    from bids_gmvae.io.gradients import read_bvals

    bvals = read_bvals(path)
    assert bvals.ndim == 1
    assert len(bvals) > 0
    assert bvals.dtype == float


def check_bvecs(path: Path) -> None:
    from bids_gmvae.io.gradients import read_bvecs

    bvecs, _ = read_bvecs(path)
    assert bvecs.ndim == 2
    assert bvecs.shape[1] == 3
    assert len(bvecs) > 0
    assert bvecs.dtype == float


def check_b(path: Path) -> None:
    from bids_gmvae.io.gradients import read_b

    vectors, bvals = read_b(path)
    assert vectors.shape == (len(bvals), 3)
    assert len(bvals) > 0


def check_json(path: Path) -> None:
    from bids_gmvae.io.inheritance import read_json

    assert isinstance(read_json(path), dict)


def main() -> None:
    """Fuzz until libFuzzer's limits are reached."""
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed"

        def one(content: bytes) -> None:
            path.write_bytes(content)
            read_anything(path)

        with atheris.instrument_imports(include=["bids_gmvae.io"]):
            import bids_gmvae.io.gradients
            import bids_gmvae.io.inheritance  # noqa: F401
        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
