"""The command ``bids-gmvae-simulate``: a dataset whose truth is known.

Importing this module must stay cheap: ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bids_gmvae import __version__
from bids_gmvae.cli import options
from bids_gmvae.cli.groups import HelpFormatter
from bids_gmvae.exceptions import ExitCode, GMVAEError, explain
from bids_gmvae.simulation.catalogue import GENERATIONS, SCHEMES
from bids_gmvae.simulation.settings import IMAGE_TYPES, LAYOUTS, Simulation

#: Signal models with a population of tissues, and that of the paper's benchmark; without torch.
POPULATIONS = ("msdki", "msdki_paper", "ball_stick", "ball_stick_tied", "t2_adc", "ivim")

DESCRIPTION = """\
Write a simulated diffusion MRI dataset in BIDS: heads made from the MNI152 tissue maps, measured
with Rician noise. The true parameter maps are in derivatives/truth. Nothing is downloaded.
"""

SCHEME_LINES = "\n".join(f"  {name:<12} {item.description}" for name, item in SCHEMES.items())

EPILOG = f"""\
schemes:
{SCHEME_LINES}

examples:
  bids-gmvae-simulate demo
  bids-gmvae-simulate demo --lesions --qsiprep-for 02
  bids-gmvae-simulate qsiprep --layout qsiprep --generation 0.22 --signal-model ball_stick
  bids-gmvae-simulate brain --voxel-size 2 --slices all --scheme hcp --n-subjects 1
  bids-gmvae-simulate mine --bval dwi.bval --bvec dwi.bvec --snr 20
"""


class _Group:
    """A titled group of options whose defaults are those of `Simulation`."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._group = parser.add_argument_group(title)

    def add(self, flag: str, text: str, *, dest: str = "", default: str = "", **how: Any) -> None:
        """Add an option that fills the setting of its name, or ``dest``."""
        dest = dest or flag.removeprefix("--").replace("-", "_")
        value = next(item.default for item in fields(Simulation) if item.name == dest)
        if isinstance(value, bool):
            how["action"] = "store_false" if value else "store_true"
        else:
            default = default or (f"{value:g}" if isinstance(value, float) else str(value))
            text = f"{text} (default: {default})"
        self._group.add_argument(flag, dest=dest, help=text, **how)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``bids-gmvae-simulate``."""
    parser = argparse.ArgumentParser(
        prog="bids-gmvae-simulate",
        usage="bids-gmvae-simulate OUT_DIR [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bids-gmvae {__version__}")
    parser.add_argument(
        "out_dir", metavar="OUT_DIR", type=Path, help="dataset to write; a new or empty folder"
    )
    _add_subjects(_Group(parser, "subjects and files"))
    _add_acquisition(_Group(parser, "acquisition"))
    _add_tissue(_Group(parser, "tissue"))
    return parser


def _add_subjects(group: _Group) -> None:
    labels: dict[str, Any] = {"nargs": "+", "metavar": "LABEL", "default": "none"}
    session, subject = options.label("ses"), options.label("sub")
    group.add("--n-subjects", "subjects, labelled 01, 02, ...", **_number(int, 1))
    group.add("--sessions", "session labels, e.g. pre post", type=session, **labels)
    group.add("--runs", "runs per session; runs and sessions differ in noise", **_number(int, 1))
    group.add(
        "--layout", f"{_listed(LAYOUTS)} (QSIPrep's output alone)", **_name(LAYOUTS, "layout")
    )
    group.add(
        "--qsiprep-for",
        "subjects who get QSIPrep's output besides raw data, in derivatives/qsiprep",
        type=subject,
        **labels,
    )
    group.add(
        "--generation",
        f"release of QSIPrep to imitate: {_listed(GENERATIONS)}",
        **_name(GENERATIONS, "QSIPrep generation"),
    )
    group.add(
        "--no-anatomy",
        "leave anat/, and the transform to MNI152, out of QSIPrep's output",
        dest="anatomy",
    )
    group.add("--axes", "where the voxel axes of raw images point to", metavar="AXES")
    group.add(
        "--dtype",
        f"of the images: {_listed(IMAGE_TYPES)}; auto: raw int16, QSIPrep's float32",
        **_name(IMAGE_TYPES, "image type"),
    )


def _add_acquisition(group: _Group) -> None:
    file: dict[str, Any] = {"type": options.existing_file, "metavar": "FILE", "default": "none"}
    group.add(
        "--scheme",
        "acquisition scheme, see below; auto: the one that suits the signal model",
        **_name(("auto", *SCHEMES), "scheme"),
    )
    group.add("--bval", "b-values of your own scheme, s/mm^2", **file)
    group.add("--bvec", "directions of your own scheme, along the scanner's axes", **file)
    group.add("--jitter", "scatter the b-values by -5, 0 or +5 s/mm^2")
    group.add(
        "--snr",
        "white matter's signal at b = 0 over the standard deviation of the noise",
        **_number(float, 0.01),
    )
    group.add(
        "--sigma-variation",
        "highest over lowest noise within a slice, around what --snr says",
        **_number(float, 1),
    )
    group.add("--no-background", "zeros outside the brain instead of noise", dest="background")
    group.add("--voxel-size", "edge of the cubic voxels, mm", **_number(float, 1))
    group.add(
        "--slices",
        "slices, centred on the ventricles, or all",
        dest="n_slices",
        type=_slices,
        metavar="N|all",
    )


def _add_tissue(group: _Group) -> None:
    group.add(
        "--signal-model",
        f"physics and tissue: {_listed(POPULATIONS)}",
        **_name(POPULATIONS, "signal model"),
    )
    group.add("--lesions", "put sharp lesions into white matter, of tissue found nowhere else")
    group.add("--seed", "of everything; equal options give equal bytes", **_number(int, 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = build_parser()
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        options.refuse_unknown(parser, unknown)
    settings = vars(given)
    out_dir = settings.pop("out_dir")
    try:
        Simulation(**settings)
    except GMVAEError as error:
        parser.error(str(error))
    try:
        from bids_gmvae.simulation.dataset import simulate_dataset

        simulate_dataset(out_dir, progress=_report, **settings)
    except KeyboardInterrupt:
        print(f"bids-gmvae-simulate: Stopped; {out_dir} is incomplete.", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        print(f"bids-gmvae-simulate: {known}", file=sys.stderr)
        return int(known.exit_code)
    print(f"Dataset: {out_dir}\nTruth:   {out_dir / 'derivatives' / 'truth'}")
    return int(ExitCode.OK)


def _report(done: int, total: int, name: str) -> None:
    print(f"[{done}/{total}] {name}", flush=True)


def _name(known: Iterable[str], kind: str) -> dict[str, Any]:
    names = tuple(known)
    return {"type": options.name_in(kind, names), "metavar": "NAME"}


def _number(kind: type[int] | type[float], at_least: float) -> dict[str, Any]:
    return {"type": options.number(kind, at_least=at_least), "metavar": "N"}


def _listed(known: Iterable[str]) -> str:
    names = tuple(known)
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _slices(text: str) -> int | None:
    if text == "all":
        return None
    return int(options.number(int, at_least=1)(text))
