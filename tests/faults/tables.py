"""Bad gradient tables and sidecars."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import numpy as np

from bids_gmvae.exceptions import ExitCode
from tests.bids_tree import directions, text_of
from tests.faults.bench import Case, Place
from tests.tiny import BVALS

N = len(BVALS)
BVECS = directions(N) * (BVALS[:, None] > 0)


def holding(extension: str, content: str | bytes) -> Callable[[Place], None]:
    """Give what writes a file of the run."""

    def spoil(place: Place) -> None:
        content_ = content if isinstance(content, bytes) else content.encode()
        place.run(extension).write_bytes(content_)

    return spoil


def with_value(row: int, value: float) -> str:
    """Write the b-values with another one in a row."""
    bvals = BVALS.copy()
    bvals[row] = value
    return " ".join(f"{b:g}" for b in bvals)


def with_vector(row: int, vector: np.ndarray | list[float]) -> str:
    """Write the directions with another one in a row."""
    bvecs = BVECS.copy()
    bvecs[row] = vector
    return text_of(bvecs.T)


def directed(bvals: np.ndarray) -> Callable[[Place], None]:
    """Write other b-values, and a direction for every volume."""

    def spoil(place: Place) -> None:
        place.run(".bval").write_text(text_of(bvals))
        place.run(".bvec").write_text(text_of(directions(N).T))

    return spoil


def without(*extensions: str) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        for extension in extensions:
            place.run(extension).unlink()

    return spoil


def exchanged(place: Place) -> None:
    bval, bvec = place.run(".bval"), place.run(".bvec")
    content = bval.read_bytes()
    shutil.copy(bvec, bval)
    bvec.write_bytes(content)


def two_tables(place: Place) -> None:
    """Let two tables apply, neither of which has the name of the image."""
    folder = place.run().parent
    for name in ("sub-02_run-1_dwi", "sub-02_acq-a_dwi"):
        shutil.copy(place.run(".bval"), folder / f"{name}.bval")
    long = "sub-02_acq-a_run-1_dwi"
    place.run(".bval").unlink()
    for extension in (".nii.gz", ".bvec", ".json"):
        place.run(extension).rename(folder / f"{long}{extension}")


def annexed(place: Place) -> None:
    place.run(".bval").unlink()
    place.run(".bval").symlink_to("../../.git/annex/objects/X1/Y2/MD5E-s80--0.bval")


def options(spoil: Callable[[Place], None], *more: str) -> Callable[[Place], tuple[str, ...]]:
    """Do some damage, and add arguments."""

    def spoilt(place: Place) -> tuple[str, ...]:
        spoil(place)
        return more

    return spoilt


def nothing(place: Place) -> None:
    """Leave all as it is."""


BVAL = r"\S*sub-02_dwi\.bval"
BVEC = r"\S*sub-02_dwi\.bvec"
JSON = r"\S*sub-02_dwi\.json"
ONE_SHELL = " ".join(f"{min(b, 1000):g}" for b in BVALS)


def in_file(extension: str, name: str, content: str | bytes, says: str, **more: object) -> Case:
    """Describe a file of the run that holds something bad."""
    return Case(name, says, holding(extension, content), **more)  # type: ignore[arg-type]


CASES = [
    Case("no .bval", r"needs a \.bval file", without(".bval")),
    Case("no .bvec", r"needs a \.bvec file", without(".bvec")),
    Case("two .bval files that apply", "At most one .bval .* sub-02_acq-a_dwi", two_tables),
    Case("a .bval whose content was not fetched", f"datalad get .*{BVAL}", annexed),
    Case(".bval and .bvec exchanged", f"{BVEC} must have 3 rows .* has 1 rows", exchanged),
    in_file(".bval", "an empty .bval", "", f"{BVAL} must hold numbers, but is empty"),
    in_file(".bval", "a .bval of blanks", " \n\t\n", f"{BVAL} must hold numbers, but is empty"),
    in_file(".bval", "one b-value too few", text_of(BVALS[:-1]), f"{BVAL} has 19"),
    in_file(".bval", "one b-value too many", text_of([*BVALS, 0]), f"{BVAL} has 21"),
    in_file(".bval", "b-values with commas", text_of(BVALS).replace(" ", ", "), f"{BVAL}.*'0,'"),
    in_file(".bval", "a b-value nan", with_value(5, np.nan), f"volume 5 of {BVAL} has nan"),
    in_file(".bval", "a b-value inf", with_value(6, np.inf), f"volume 6 of {BVAL} has inf"),
    in_file(".bval", "a negative b-value", with_value(7, -1000), f"volume 7 of {BVAL} has -1000"),
    in_file(".bval", "words as b-values", "b0 b1000 b2000", f"{BVAL}.*column 1 is 'b0'"),
    in_file(".bval", "b-values as bytes", b"\xff\xfe0\x00\x80", f"{BVAL} must be a text file"),
    in_file(".bval", "b-values in ms/um^2", text_of(BVALS / 1000), f"largest of {BVAL} is 2,"),
    in_file(".bval", "b-values in s/m^2", text_of(BVALS * 1e6), f"largest of {BVAL} is 2e\\+09"),
    Case("all b-values equal", f"{BVAL} is 1000", directed(BVALS * 0 + 1000)),
    Case("no b0", f"{BVAL} is 900", directed(np.maximum(BVALS, 900))),
    in_file(
        ".bval",
        "all b-values zero",
        text_of(BVALS * 0),
        f"largest b-value of {BVAL} is 0",
        code=ExitCode.NOTHING_ELIGIBLE,
    ),
    Case(
        "one shell for MS-DKI",
        "sub-02_dwi.*(two|2).*shells",
        options(holding(".bval", ONE_SHELL), "--signal-model", "msdki"),
    ),
    Case(
        "one echo time for T2",
        "sub-02_dwi.*echo",
        options(nothing, "--signal-model", "t2_adc"),
    ),
    Case(
        "no low b-values for IVIM",
        "sub-02_dwi.*low|b-values",
        options(nothing, "--signal-model", "ivim"),
    ),
    Case(
        "limits that leave no weighted volume",
        "the b-value limits leave none of .*sub-02_dwi",
        options(nothing, "--max-b", "500"),
        code=ExitCode.NOTHING_ELIGIBLE,
    ),
    Case(
        "too few volumes",
        "At least 40 volumes .* has 20",
        options(nothing, "--min-volumes", "40"),
        code=ExitCode.NOTHING_ELIGIBLE,
    ),
    in_file(".bvec", "an empty .bvec", "", f"{BVEC} must hold numbers, but is empty"),
    in_file(".bvec", "two rows of directions", text_of(BVECS.T[:2]), f"{BVEC}.*has 2 rows of 20"),
    in_file(".bvec", "four rows of directions", text_of(BVECS.T[[0, 1, 2, 2]]), f"{BVEC}.*4 rows"),
    in_file(
        ".bvec",
        "rows of unequal length",
        text_of(BVECS.T).rsplit(" ", 1)[0],
        f"{BVEC}.*rows of equal length.*19 and 20",
    ),
    in_file(".bvec", "one direction too few", text_of(BVECS.T[:, 1:]), f"20 and .*{BVEC} has 19"),
    in_file(".bvec", "directions with commas", text_of(BVECS.T).replace(" ", ", "), f"{BVEC}.*,'"),
    in_file(".bvec", "a direction nan", with_vector(5, [np.nan] * 3), f"{BVEC}.*volume 5"),
    in_file(".bvec", "no direction at b > 0", with_vector(9, [0] * 3), f"{BVEC}.*volume 9"),
    in_file(".bvec", "a direction of length 3", with_vector(9, BVECS[9] * 3), f"{BVEC}.*length 3"),
    in_file(
        ".bvec",
        "directions of length 1.05",
        text_of(BVECS.T * 1.05),
        f"{BVEC} have not; .* length 1.05",
        code=ExitCode.OK,
    ),
    in_file(
        ".bvec",
        "one direction per row",
        text_of(BVECS),
        f"{BVEC} must have 3 rows",
        code=ExitCode.OK,
    ),
    in_file(".json", "a sidecar that is cut off", '{"EchoTime": 0.0', f"{JSON} must be a JSON"),
    in_file(".json", "an empty sidecar", "", f"{JSON} must be a JSON"),
    in_file(".json", "a sidecar that is a list", "[0.08]", f"{JSON}.*holds a list"),
    in_file(".json", "a sidecar of bytes", b"\xff\xfe\x00{", f"{JSON} must be a JSON"),
    in_file(".json", "a sidecar nested without end", "[" * 10**5, f"{JSON} must be a JSON"),
    in_file(
        ".json", "a number of 5000 digits", f'{{"a": {"9" * 5000}}}', f"{JSON} must be a JSON"
    ),
    in_file(
        ".json",
        "too few echo times",
        json.dumps({"EchoTime": [0.08, 0.1]}),
        "EchoTime of sub-02_dwi.* lists 2 for 20",
    ),
    in_file(
        ".json",
        "echo times that are words",
        json.dumps({"EchoTime": ["long"] * N}),
        "EchoTime of sub-02_dwi.*'long'",
    ),
    in_file(
        ".json",
        "an echo time nan",
        json.dumps({"EchoTime": [0.08] * (N - 1) + [np.nan]}),
        "EchoTime of sub-02_dwi.* nan",
    ),
    in_file(
        ".json",
        "echo times in ms",
        json.dumps({"EchoTime": [80.0] * N}),
        "EchoTime of sub-02_dwi.* 80",
    ),
]
