"""Do the tests notice deliberate bugs? ``python -m tests.mutation.check [WORD IN NAMES ...]``.

The bugs are put into a copy of the repository, one at a time; the exit code is 1 if one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.bugs import BUGS, ROOT

#: What pytest's exit codes say of a bug; any other means that the tests did not run.
VERDICTS = {0: "SURVIVED", 1: "killed"}
LONGEST = 900


def main(words: Sequence[str]) -> int:
    bugs = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        copy_repository(copy)
        tests = dict.fromkeys(test for bug in bugs for test in bug.tests)
        if run_tests(copy, list(tests)) != 0:
            sys.exit("The tests must pass without a bug, but do not.")
        survived = 0
        for bug in bugs:
            start = time.monotonic()
            correct = bug.put_into(copy)
            code = run_tests(copy, bug.tests)
            (copy / "bids_gmvae" / bug.file).write_text(correct, encoding="utf-8")
            verdict = VERDICTS.get(code, f"ERROR {code}")
            survived += verdict != "killed"
            seconds = time.monotonic() - start
            print(f"{verdict:8}  {seconds:4.0f} s  {bug.file:30}  {bug.name}", flush=True)
    print(f"{len(bugs) - survived} of {len(bugs)} bugs killed")
    return 1 if survived else 0


def copy_repository(copy: Path) -> None:
    """Copy the files that git knows, and make sure that tests there would import the copy."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    statement = "import bids_gmvae; print(bids_gmvae.__file__)"
    imported = _python(copy, "-c", statement, capture_output=True, text=True).stdout.strip()
    if Path(imported) != copy / "bids_gmvae" / "__init__.py":
        sys.exit(f"The copy in {copy} must be imported, but {imported} is.")


def run_tests(copy: Path, tests: Sequence[str]) -> int:
    """Give pytest's exit code; 124 if it takes too long."""
    paths = [f"tests/{test}" for test in tests]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": LONGEST}
    try:
        return _python(copy, "-m", "pytest", "-x", "-q", *paths, **quiet).returncode
    except subprocess.TimeoutExpired:
        return 124


def _python(copy: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, **options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
