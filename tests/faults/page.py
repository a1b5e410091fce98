"""The page on bad input: written by running every case, and read back by the tests.

``python -m tests.faults.page`` writes it anew.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bids_gmvae.exceptions import ExitCode
from tests.faults import calls, fits, images, tables
from tests.faults.bench import Bench, Case

PAGE = Path(__file__).parents[2] / "docs/reference/bad_input.md"

PARTS = {
    "Images and masks": images.CASES,
    "Gradient tables and sidecars": tables.CASES,
    "Datasets and options": calls.CASES,
    "Fits and priors": fits.CASES,
}
CASES = [case for cases in PARTS.values() for case in cases]

INTRODUCTION = f"""\
# Bad input

What the command says about bad input, and its exit code. Each row is a test: the faults are made
in a dataset of two participants, `sub-02` is spoilt and asked for, and `sub-01` must stay as it
is. No row leaves anything half-written or shows a traceback, which `--debug` does.

Found by the plan means before anything is computed: these rows are of `--dry-run`, whose exit code
is {ExitCode.OK} if a run is left to be mapped, be it with a warning. The others are of calls that
map. Where other runs can be mapped, they are, and the exit code is {ExitCode.RUN_FAILED}; with any
other but {ExitCode.OK} nothing is mapped. `bids-gmvae --help` lists all codes. The page is written
by `python -m tests.faults.page`.
"""


UNUSUAL = """\
## Unusual, yet valid

None of this changes a voxel of the maps (`tests/faults/test_unusual_input.py`): integers with any
slope and intercept, other data types, big-endian files, NIfTI-2, `.nii` for `.nii.gz`, gzip files
of several members; sform or qform alone; masks of numbers other than 0 and 1; tables with tabs,
Windows line ends, blank lines or exponents; sidecars with a byte order mark, or none at all;
content that links lead to, as git-annex keeps it; linked folders, and folders whose names hold
blanks, quotes, letters beyond ASCII, a leading dot or what a shell would run; files that name
other files or participants. Flipped or exchanged axes, with the table that belongs to them, give
the same maps in world coordinates.
"""


def row_of(case: Case, code: int, sentence: str) -> str:
    """Write what became of a case as a row of its table."""
    found = "mapping" if case.maps else "plan"
    return f"| {case.name} | {found} | {code} | {sentence.replace('|', chr(92) + '|')} |"


def read_page(text: str) -> dict[str, str]:
    """Give the rows of all tables by the name of their case."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return {row.split(" | ")[0][2:]: row for row in rows if not row.startswith("| Fault |")}


def write_page(bench: Bench) -> None:
    """Run all cases, and write what they said."""
    parts = [INTRODUCTION]
    for title, cases in PARTS.items():
        rows = [
            f"## {title}",
            "",
            "| Fault | Found by | Exit code | Message |",
            "|---|---|---|---|",
        ]
        for case in cases:
            place, arguments = bench.prepare(case)
            result = bench.call(place, arguments)
            rows.append(row_of(case, result.code, " / ".join(result.about(case.says))))
            print(rows[-1], flush=True)
        parts.append("\n".join(rows) + "\n")
    PAGE.write_text("\n".join([*parts, UNUSUAL]), encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_page(Bench(Path(folder)))
