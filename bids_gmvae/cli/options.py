"""What the options of the command line may be, and how their text becomes a value.

The names of models and estimators are found without their registries, so that ``--help`` needs
neither torch nor Nipype; a test keeps both equal.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bids_gmvae.exceptions import ExitCode, UnknownNameError

_FOLDER = Path(__file__).parents[1] / "signal_models"

#: A signal model is in the file that bears its name.
SIGNAL_MODELS = tuple(
    sorted({path.stem for path in _FOLDER.glob("*.py")} - {"__init__", "base", "compiled"})
)
ESTIMATORS = ("gmvae", "lsq", "mlp", "vae_unig", "vae_gmm")

EXIT_CODES = {
    ExitCode.OK: "every selected run was mapped",
    ExitCode.RUN_FAILED: "at least one run failed; the others are written",
    ExitCode.BAD_COMMAND_LINE: "bad command line",
    ExitCode.NOTHING_ELIGIBLE: "no run is eligible; the reasons are printed",
    ExitCode.REPORT_FAILED: "the maps are written, a report failed",
    ExitCode.DEVICE: "the requested device is missing, or out of memory after backing off",
    ExitCode.INVALID_INPUT: "invalid input: dataset, gradient table, mask or configuration",
    ExitCode.INVALID_OUTPUT: "--validate-outputs found files that are not as they should be",
    ExitCode.INTERNAL: "internal error",
    ExitCode.NO_SPACE: "no space, quota or permission on the output or work directory",
}

#: Megabytes per unit of a memory suffix.
MEMORY_UNITS = {"B": 1e-6, "K": 1e-3, "M": 1.0, "G": 1e3, "T": 1e6}


def available_cores() -> int:
    """Count the cores that this process may use, rather than all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_omp_nthreads(nprocs: int) -> int:
    """Choose threads per process: all cores for one fit, unless there are many.

    Examples
    --------
    >>> [default_omp_nthreads(nprocs) for nprocs in (1, 4, 64)]
    [1, 4, 8]
    """
    return min(nprocs, 8)


def label(entity: str) -> Callable[[str], str]:
    """Make the reader of a label of an entity, with or without its key.

    Examples
    --------
    >>> label("sub")("sub-01"), label("sub")("01")
    ('01', '01')
    """

    def read(text: str) -> str:
        value = text.removeprefix(f"{entity}-")
        if not re.fullmatch(r"[0-9a-zA-Z+]+", value):
            raise argparse.ArgumentTypeError(
                f"'{text}' is no BIDS label: letters and digits only, e.g. {entity}-01 or 01"
            )
        return value

    return read


def name_in(kind: str, known: tuple[str, ...]) -> Callable[[str], str]:
    """Make the reader of a registered name; a mistyped one is answered by a suggestion."""

    def read(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(str(UnknownNameError.of(kind, text, known)))
        return text

    return read


def number(
    kind: type[int] | type[float], *, at_least: float, below: float | None = None
) -> Callable[[str], int | float]:
    """Make the reader of a number within a range.

    Examples
    --------
    >>> number(int, at_least=1)("3")
    3
    >>> number(float, at_least=0, below=1)("5")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: '5' must be a number >= 0 and < 1
    """
    what = "a whole number" if kind is int else "a number"
    limits = f">= {at_least:g}" + ("" if below is None else f" and < {below:g}")

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(at_least) - 1
        # Negated, so that NaN is refused too.
        if not (at_least <= value < (math.inf if below is None else below)):
            raise argparse.ArgumentTypeError(f"'{text}' must be {what} {limits}")
        return value

    return read


def refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """End with the arguments that are no options, and the option that was perhaps meant."""
    flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    meant = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
    advice = f". Did you mean {meant[0]}?" if meant else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{advice}")


def memory(text: str) -> int:
    """Read an amount of memory, in megabytes.

    Examples
    --------
    >>> memory("16G"), memory("800")
    (16000, 800)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([BKMGT])?B?", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no amount of memory; write e.g. 800, 800M or 16G (B, K, M, G, T)"
        )
    return max(1, round(float(match[1]) * MEMORY_UNITS[match[2] or "M"]))


def device(text: str) -> str:
    """Read the name of a device, without asking whether it is there."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' must be auto, cpu, cuda or cuda:N")
    return text


def existing_file(text: str) -> Path:
    """Read the path of a file that is there."""
    path = Path(text).expanduser().absolute()
    # os.path, because Path.is_file raises where a folder above may not be read.
    if not os.path.isfile(path):
        raise argparse.ArgumentTypeError(f"the file {text} does not exist or may not be read")
    return path


def existing_dir(text: str) -> Path:
    """Read the path of a folder that is there."""
    path = Path(text).expanduser().absolute()
    if not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"the folder {text} does not exist or may not be read")
    return path


def any_path(text: str) -> Path:
    """Read a path that may be created later."""
    return Path(text).expanduser().absolute()


def word_or_file(*words: str) -> Callable[[str], str]:
    """Make the reader of one of some words, or of an existing file."""

    def read(text: str) -> str:
        if text in words:
            return text
        try:
            return str(existing_file(text))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(
                f"{error} (nor is it one of: {', '.join(words)})"
            ) from None

    return read


def derivative(text: str) -> tuple[str, Path]:
    """Read ``NAME=PATH``, or ``PATH`` named after its last folder."""
    name, equals, path = text.partition("=")
    root = existing_dir(path if equals else text)
    name = name if equals else root.name
    if not re.fullmatch(r"[0-9a-zA-Z_.+-]+", name):
        raise argparse.ArgumentTypeError(f"'{text}' must be NAME=PATH, e.g. qsiprep=/data/qsiprep")
    return name, root


def output_space(text: str) -> str:
    """Read the name of a template, with its resolution if one is asked for."""
    if not re.fullmatch(r"[0-9a-zA-Z+]+(:res-0*[1-9][0-9]*)?", text):
        raise argparse.ArgumentTypeError(
            f"'{text}' must be TEMPLATE or TEMPLATE:res-N, e.g. MNI152NLin2009cAsym:res-2"
        )
    return text


def atlas(text: str) -> str:
    """Read a label image with its TSV beside it, or the name of a TemplateFlow atlas."""
    if not re.search(r"\.nii(\.gz)?$", text):
        return text
    image = existing_file(text)
    table = image.with_name(re.sub(r"\.nii(\.gz)?$", ".tsv", image.name))
    if not os.path.isfile(table):
        raise argparse.ArgumentTypeError(
            f"{text} needs its table of labels {table.name} beside it"
        )
    return str(image)
