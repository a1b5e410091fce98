"""Run the command on a dataset with one fault, and look at what it said and left."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from bids_gmvae.cli.run import main
from bids_gmvae.exceptions import ExitCode
from tests.tiny import tiny_dataset

STEMS = ("sub-01/dwi/sub-01", "sub-02/dwi/sub-02")

#: What the command says beside the sentence about the fault.
AROUND = re.compile(
    r"Mapping 1 run of 1 participant\.|sub-02: \w+(?: \w+)?|0 runs mapped, 1 failed .*"
    r"|No run can be mapped; each has an error:|No run is left to map\.|Report: .*"
    r"|Check the selection options; `--dry-run` shows what is found\.|usage: .*"
    r"|The output dataset is valid\."
)


@dataclass(frozen=True)
class Place:
    """Where a case happens: a dataset with a good participant 01 and one, 02, to be spoilt."""

    root: Path

    @property
    def bids(self) -> Path:
        return self.root / "bids"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def mask(self) -> Path:
        return self.bids / f"derivatives/masks/{STEMS[1]}_desc-brain_mask.nii.gz"

    def run(self, extension: str = ".nii.gz") -> Path:
        """Name a file of the run to be spoilt."""
        return self.bids / f"{STEMS[1]}_dwi{extension}"

    def file(self, name: str, content: str = "") -> Path:
        """Write a text file beside the dataset."""
        path = self.root / name
        path.write_text(content, encoding="utf-8")
        return path

    def arguments(self, *more: object) -> list[str]:
        return [
            str(self.bids), str(self.out), "participant", "-w", str(self.root / "work"),
            "--estimator", "lsq", "--nprocs", "1", *map(str, more),
        ]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes
    ----------
    name : str
        What is wrong.
    says : str
        Regular expression of what the one sentence about it must hold: file and value.
    spoil : callable
        Does the damage; gives arguments of the command that are part of it, if any.
    code : ExitCode
        What the command must give.
    maps : bool
        Whether the fault can only be found by mapping; else the plan finds it.
    """

    name: str
    says: str
    spoil: Callable[[Place], Sequence[object] | None]
    code: ExitCode = ExitCode.INVALID_INPUT
    maps: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a call.

    Attributes
    ----------
    code : int
        Its exit code.
    lines : tuple of str
        What it said, line by line, without the folder of the case.
    """

    code: int
    lines: tuple[str, ...]

    def about(self, says: str) -> list[str]:
        """Give the lines about something."""
        return [line for line in self.lines if re.search(says, line)]


class Bench:
    """A place to run cases, which all start from the same dataset and, if need be, its maps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clean = Place(root / "clean")
        self._console = root / "console.log"
        self._number = 0
        tiny_dataset(self.clean.bids, *STEMS)
        # The first call starts the server that later workers come from: its caches must last.
        first = self.call(self.clean, self.clean.arguments("--participant-label", "01"))
        assert first.code == ExitCode.OK, first.lines

    def prepare(self, case: Case) -> tuple[Place, list[str]]:
        """Make the place of a case; gives it and the arguments of the command."""
        self._number += 1
        place = Place(self.root / str(self._number))
        shutil.copytree(self.clean.bids, place.bids, symlinks=True)
        if case.maps:
            shutil.copytree(self.clean.out, place.out)
        more = list(case.spoil(place) or ())
        selected = [] if "--participant-label" in more else ["--participant-label", "02"]
        return place, place.arguments(*selected, *([] if case.maps else ["--dry-run"]), *more)

    def call(self, place: Place, arguments: Sequence[str]) -> Result:
        """Run the command in this process, and its workers as always."""
        with _recorded(self._console) as said:
            code = main(arguments)
        return Result(code, normalised("".join(said), place.root))


def normalised(text: str, root: Path) -> tuple[str, ...]:
    """Take the place and the time of a call out of what it said."""
    text = text.replace(f"{root}{os.sep}", "").replace(str(root), ".")
    text = re.sub(r"\d{8}-\d{6}_[0-9a-f-]{36}", "RUN", text)
    return tuple(" ".join(line.split()) for line in text.splitlines() if line.strip())


def contents(folder: Path) -> dict[str, str]:
    """Give a checksum of every file, by its path; logs apart."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "logs"
    }


@contextmanager
def _recorded(console: Path) -> Iterator[list[str]]:
    """Send all that is written to one file, workers' words included; then undo what it took."""
    said: list[str] = []
    loggers = [logging.getLogger(name) for name in ("bids_gmvae", "nipype", "py.warnings")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    environment = dict(os.environ)
    with console.open("a+", encoding="utf-8", buffering=1) as file:
        start = console.stat().st_size
        saved = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in saved:
            os.dup2(file.fileno(), number)
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield said
        finally:
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)
            os.environ.clear()
            os.environ.update(environment)
            for each, handlers, level, propagate in before:
                for handler in each.handlers:
                    handler.close()
                each.handlers[:], each.propagate = handlers, propagate
                each.setLevel(level)
            file.seek(start)
            said.append(file.read())
