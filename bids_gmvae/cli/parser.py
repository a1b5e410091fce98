"""The options of ``bids-gmvae``, and the settings that a command line gives.

Importing this module must stay cheap: ``--help`` and ``--version`` answer at once, offline.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_gmvae import __version__
from bids_gmvae.cli import groups, options
from bids_gmvae.cli.configfile import read_config
from bids_gmvae.config import RunSettings, section_of

DESCRIPTION = """\
Maps of tissue parameters from diffusion MRI, each with what is known about it: posterior standard
deviation, prior influence, tissue components, unexpected tissue, residual and status.
"""

EPILOG = """\
examples:
  bids-gmvae /data/bids /data/bids/derivatives/gmvae participant -w /scratch/work
  bids-gmvae /data/bids /data/out participant -d qsiprep=/data/qsiprep --participant-label 01 02
  bids-gmvae /data/bids /data/out participant --dry-run
  bids-gmvae /data/bids /data/out group
  bids-gmvae /data/bids /data/out group --learn-prior

exit codes:
""" + "\n".join(f"  {code:>2}  {text}" for code, text in options.EXIT_CODES.items())

# Taken so that command lines of other BIDS Apps work unchanged.
IGNORED = ("--notrack", "--fs-license-file", "--low-mem")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``bids-gmvae``."""
    parser = argparse.ArgumentParser(
        prog="bids-gmvae",
        usage="bids-gmvae BIDS_DIR OUTPUT_DIR {participant,group} [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=groups.HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    where = parser.add_argument_group("positional arguments")
    where.add_argument(
        "bids_dir",
        metavar="BIDS_DIR",
        type=options.existing_dir,
        help="raw BIDS dataset, or QSIPrep's output",
    )
    where.add_argument(
        "output_dir",
        metavar="OUTPUT_DIR",
        type=options.any_path,
        help="derivative dataset to write",
    )
    where.add_argument(
        "analysis_level",
        metavar="{participant,group}",
        choices=("participant", "group"),
        help="map each participant, or tabulate all that are mapped",
    )
    groups.add_selection(groups.OptionGroup(parser, "selection"))
    groups.add_model(groups.OptionGroup(parser, "model"))
    groups.add_compute(groups.OptionGroup(parser, "compute"))
    groups.add_run(groups.OptionGroup(parser, "run"))
    groups.add_outputs(groups.OptionGroup(parser, "outputs"))
    other = parser.add_argument_group("other")
    other.add_argument("-h", "--help", action="help", help="show this text and exit")
    other.add_argument(
        "--version",
        action="version",
        version=f"bids-gmvae {__version__}",
        help="show the version and exit",
    )
    other.add_argument(
        "--notrack", action="store_true", help="accepted and ignored: nothing is ever tracked"
    )
    other.add_argument(
        "--fs-license-file", metavar="FILE", help="accepted and ignored: FreeSurfer is not used"
    )
    other.add_argument(
        "--low-mem", action="store_true", help="accepted and ignored: signals always stay on disk"
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> RunSettings:
    """Turn a command line into settings; it wins over ``--config-file``, which wins over defaults.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process if None.

    Raises
    ------
    SystemExit
        With code 2 if the command line is wrong, 0 after ``--help`` and ``--version``.
    InputError
        If the configuration file is wrong.
    """
    parser = build_parser()
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        options.refuse_unknown(parser, unknown)
    given = vars(known)
    ignored = {
        "--notrack": given.pop("notrack"),
        "--fs-license-file": given.pop("fs_license_file"),
        "--low-mem": given.pop("low_mem"),
    }
    positional = {name: given.pop(name) for name in ("bids_dir", "output_dir", "analysis_level")}
    config_file = given.pop("config_file", None)
    values: dict[str, dict[str, Any]] = {name: {} for name in RunSettings.sections()}
    if config_file is not None:
        actions = {action.dest: action for action in parser._actions}
        values |= read_config(config_file, actions)
    if "derivatives" in given:
        given["derivatives"] = _unique_names(parser, given["derivatives"])
    for name, value in given.items():
        values[section_of(name)][name] = tuple(value) if isinstance(value, list) else value
    if any(ignored.values()):
        values["execution"]["ignored"] = tuple(flag for flag in IGNORED if ignored[flag])
    values["execution"].setdefault("work_dir", options.any_path("work"))
    nprocs = values["compute"].setdefault("nprocs", options.available_cores())
    values["compute"].setdefault("omp_nthreads", options.default_omp_nthreads(nprocs))
    sections = {name: kind(**values[name]) for name, kind in RunSettings.sections().items()}
    settings = RunSettings(**positional, **sections)
    _check_together(parser, settings)
    _check_prior(parser, settings, on_command_line=given)
    return settings


def _unique_names(
    parser: argparse.ArgumentParser, pairs: Sequence[tuple[str, Path]]
) -> dict[str, Path]:
    """Collect datasets by name; the name is the key of the output's DatasetLinks."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        parser.error(f"argument -d/--derivatives: the name {twice[0]} is given twice")
    return dict(pairs)


def _check_together(parser: argparse.ArgumentParser, settings: RunSettings) -> None:
    """Refuse settings that are fine one by one but not together."""
    bids_dir, output_dir = settings.bids_dir.resolve(), settings.output_dir.resolve()
    work_dir = settings.execution.work_dir.resolve()
    model = settings.model
    if output_dir == bids_dir:
        parser.error(
            "OUTPUT_DIR must not be BIDS_DIR, whose files would be mixed with the results; "
            f"give e.g. {bids_dir / 'derivatives' / 'bids_gmvae'}"
        )
    if any(part.startswith("sub-") for part in _below(output_dir, bids_dir)):
        parser.error(
            f"OUTPUT_DIR {output_dir} is among the data of a participant in BIDS_DIR; "
            f"give e.g. {bids_dir / 'derivatives' / 'bids_gmvae'}"
        )
    if os.path.isfile(output_dir):
        parser.error(f"OUTPUT_DIR must be a folder, but {output_dir} is a file")
    if work_dir.is_relative_to(bids_dir):
        parser.error(
            f"the work directory {work_dir} is inside BIDS_DIR and would be searched for data; "
            "give another one with -w"
        )
    if work_dir == output_dir:
        parser.error(
            "the work directory must not be OUTPUT_DIR, whose content it would mix with; "
            "give another one with -w"
        )
    if model.min_b is not None and model.max_b is not None and model.min_b >= model.max_b:
        parser.error(
            f"--min-b {model.min_b:g} must be less than --max-b {model.max_b:g}: "
            "no weighted volume would be left"
        )
    if "auto" in model.signal_model and len(model.signal_model) > 1:
        parser.error("--signal-model must be either auto or names, not both")


def _check_prior(
    parser: argparse.ArgumentParser, settings: RunSettings, *, on_command_line: Mapping[str, Any]
) -> None:
    """Refuse what contradicts a prior that is given, or that is to be learnt."""
    model, level = settings.model, settings.analysis_level
    if settings.execution.learn_prior and level != "group":
        parser.error("--learn-prior is for the group level, after the participants are mapped")
    if settings.execution.learn_prior and settings.compute.device.startswith("cuda"):
        parser.error("--learn-prior computes on the CPU, in --nprocs jobs; leave --device out")
    if model.prior_from is None:
        return
    if level != "participant":
        parser.error("--prior-from is for the participant level")
    if model.estimator != "gmvae":
        parser.error(f"--prior-from needs --estimator gmvae; {model.estimator} has no such prior")
    if model.reuse_fit is not None:
        parser.error("--prior-from cannot go with --reuse-fit, which has a prior of its own")
    # A configuration file names all settings; the number that is not used is no contradiction.
    if "n_components" in on_command_line or model.free_water_anchor:
        parser.error(
            "--prior-from decides about the components; leave out --n-components and "
            "--free-water-anchor"
        )


def _below(path: Path, folder: Path) -> tuple[str, ...]:
    """Name the folders between a folder and a path in it, ends included; none elsewhere."""
    return path.relative_to(folder).parts if path.is_relative_to(folder) else ()
