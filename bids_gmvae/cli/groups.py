"""The options of ``bids-gmvae`` by group, with the defaults of the settings that they fill."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from typing import Any

from bids_gmvae.cli import options
from bids_gmvae.config import RunSettings, section_of


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Show the placeholder of an option once, after its last spelling."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=99)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        flags = ", ".join(action.option_strings)
        arguments = self._format_args(action, self._get_default_metavar_for_optional(action))
        # The value of --dry-run[=json] must be attached to the flag.
        return flags + (arguments if arguments.startswith("[=") else f" {arguments}")

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "+":
            return f"{action.metavar} ..."
        if action.nargs == "?":
            return f"[={action.metavar}]"
        return super()._format_args(action, default_metavar)


class OptionGroup:
    """A titled group of options whose defaults come from the settings they fill."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._group = parser.add_argument_group(title)

    def add(self, *flags: str, help: str, default: str = "", **details: Any) -> argparse.Action:
        """Add an option; it leaves no trace in the namespace unless it is given."""
        action = self._group.add_argument(*flags, default=argparse.SUPPRESS, help=help, **details)
        shown = default or _default_text(action.dest)
        if shown and action.nargs != 0:
            action.help = f"{help} (default: {shown})"
        return action

    def flag(self, *flags: str, help: str) -> argparse.Action:
        """Add an option that is off unless given."""
        return self.add(*flags, help=help, action="store_true")


def _default_text(setting: str) -> str:
    try:
        section = RunSettings.sections()[section_of(setting)]
    except KeyError:
        return ""
    default = next(item.default for item in fields(section) if item.name == setting)
    if default is MISSING:
        return ""
    if isinstance(default, tuple):
        return " ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default or "")


def add_selection(group: OptionGroup) -> None:
    """Add what chooses among the runs of the dataset."""

    def labels(*flags: str, entity: str, help: str) -> None:
        details: dict[str, Any] = {
            "nargs": "+",
            "action": "extend",
            "metavar": "LABEL",
            "type": options.label(entity),
            "dest": flags[0].removeprefix("--").replace("-", "_"),
        }
        group.add(*flags, help=f"{help}, with or without {entity}- (default: all)", **details)

    labels("--participant-label", entity="sub", help="participants to map")
    group.add(  # the spelling of the BIDS Apps specification
        "--participant_label",
        dest="participant_label",
        nargs="+",
        action="extend",
        type=options.label("sub"),
        help=argparse.SUPPRESS,
    )
    labels("--session-label", "--session-id", entity="ses", help="sessions to map")
    labels("--acq-label", entity="acq", help="acquisitions to map")
    labels("--run-id", entity="run", help="runs to map")
    group.add(
        "--bids-filter-file",
        metavar="FILE",
        type=options.existing_file,
        help='JSON of BIDS entities by query ("dwi"); null: the entity is absent, "*": any value',
    )
    group.add(
        "--bids-database-dir",
        metavar="DIR",
        type=options.any_path,
        help="pybids database: read if it is there, else written",
    )
    group.add(
        "-d",
        "--derivatives",
        metavar="NAME=PATH",
        nargs="+",
        action="extend",
        type=options.derivative,
        help="preprocessed datasets to map from, e.g. qsiprep=/data/qsiprep",
    )
    group.add(
        "--input-type",
        choices=("auto", "raw", "qsiprep"),
        metavar="TYPE",
        help="kind of data to map: auto, raw or qsiprep",
    )
    group.flag("--skip-bids-validation", help="do not validate the input dataset")


def add_model(group: OptionGroup) -> None:
    """Add what is estimated and how: the science."""
    group.add(
        "--signal-model",
        nargs="+",
        action="extend",
        metavar="NAME",
        type=options.name_in("signal model", ("auto", *options.SIGNAL_MODELS)),
        help=f"what is estimated: auto (by what was measured), {', '.join(options.SIGNAL_MODELS)}",
    )
    group.add(
        "--estimator",
        metavar="NAME",
        type=options.name_in("estimator", options.ESTIMATORS),
        help=f"how it is estimated: {', '.join(options.ESTIMATORS)}",
    )
    group.add(
        "--recognition",
        choices=("network", "newton"),
        metavar="NAME",
        help="how gmvae finds a voxel's likelihood: network or newton",
    )
    group.add(
        "--n-components",
        metavar="N",
        type=options.number(int, at_least=1),
        help="tissue components of the prior; too many is harmless",
    )
    group.flag(
        "--free-water-anchor",
        help="keep one component of the prior at free water, 37 degrees C (msdki)",
    )
    group.add(
        "--noise-model",
        choices=("rician", "gaussian"),
        metavar="NAME",
        help="distribution of a magnitude: rician or gaussian",
    )
    group.add(
        "--noise-map",
        metavar="auto|global|FILE",
        type=options.word_or_file("auto", "global"),
        help="noise sd in units of the image: a smooth map, one number, or a NIfTI file",
    )
    group.add(
        "--min-b",
        metavar="B",
        type=options.number(float, at_least=0),
        default="keep all",
        help="drop weighted volumes below this b-value, s/mm^2; b0s are kept",
    )
    group.add(
        "--max-b",
        metavar="B",
        type=options.number(float, at_least=0),
        default="keep all",
        help="drop volumes above this b-value, s/mm^2",
    )
    group.add(
        "--b0-threshold",
        metavar="B",
        type=options.number(float, at_least=0),
        help="up to this b-value a volume counts as b0, s/mm^2",
    )
    group.add(
        "--shell-tolerance",
        metavar="FRACTION",
        type=options.number(float, at_least=0, below=1),
        help="b-values this close, relative to the shell's, are one shell",
    )
    group.add(
        "--runs",
        choices=("separate", "joint", "auto"),
        metavar="HOW",
        help="fit runs separate, those of a participant joint, or (auto) those of a session "
        "that have the same shells",
    )
    group.add(
        "--mask",
        metavar="auto|FILE",
        type=options.word_or_file("auto"),
        help="voxels to map: auto (the derivative's mask, else median Otsu) or a NIfTI file",
    )
    group.add(
        "--min-volumes",
        metavar="N",
        type=options.number(int, at_least=1),
        help="skip runs with fewer volumes",
    )
    group.add(
        "--random-seed",
        metavar="N",
        type=options.number(int, at_least=0),
        default="0",
        help="same seed and device: same maps",
    )
    group.add(
        "--reuse-fit",
        metavar="FILE",
        type=options.existing_file,
        help="apply the *_fit.pt of an earlier run instead of fitting",
    )
    group.add(
        "--prior-from",
        metavar="FILE",
        type=options.existing_file,
        help="map under the *_prior.json of group --learn-prior instead of learning a prior",
    )
    group.add(
        "--posterior-samples",
        metavar="N",
        type=options.number(int, at_least=0),
        default="0",
        help="draws from each voxel's posterior to write as 4-D maps",
    )


def add_compute(group: OptionGroup) -> None:
    """Add what the run may use."""
    group.add(
        "--device",
        metavar="auto|cpu|cuda|cuda:N",
        type=options.device,
        help="where to fit; cuda fails rather than fall back to the CPU",
    )
    group.add(
        "--nprocs",
        "--nthreads",
        "--n-cpus",
        metavar="N",
        type=options.number(int, at_least=1),
        dest="nprocs",
        default="all available cores",
        help="cores to use",
    )
    group.add(
        "--omp-nthreads",
        metavar="N",
        type=options.number(int, at_least=1),
        default="nprocs, at most 8",
        help="cores that one process may use",
    )
    group.add(
        "--mem",
        "--mem-mb",
        metavar="SIZE",
        type=options.memory,
        dest="mem_mb",
        default="90 %% of the machine's",
        help="memory to use, in MB or with suffix B, K, M, G or T",
    )
    group.add(
        "--use-plugin",
        metavar="FILE",
        type=options.existing_file,
        default="MultiProc",
        help="Nipype plugin to run with: JSON or YAML with plugin and plugin_args",
    )


def add_run(group: OptionGroup) -> None:
    """Add how the run proceeds."""
    group.add(
        "-w",
        "--work-dir",
        metavar="DIR",
        type=options.any_path,
        default="./work",
        help="intermediate results, from which an interrupted run resumes",
    )
    group.flag(
        "--clean-workdir",
        help="empty the work directory of earlier runs first, and of this one if all is well",
    )
    group.add(
        "--config-file",
        metavar="FILE",
        type=options.existing_file,
        help="settings as TOML, such as logs/*/config.toml of a run; the command line wins",
    )
    group.add(
        "--dry-run",
        nargs="?",
        const="text",
        choices=("text", "json"),
        metavar="json",
        help="show the plan, and why what is skipped is skipped; compute nothing",
    )
    group.flag(
        "--learn-prior",
        help="group level: learn one prior from the mapped participants, for --prior-from, "
        "in --nprocs jobs; no tables are made",
    )
    group.flag("--resource-monitor", help="record memory and CPU use of each node")
    group.flag("--write-graph", help="draw the workflow into the logs")
    group.flag("--stop-on-first-crash", help="stop when a run fails; else the others go on")
    group.add(
        "--stall-timeout",
        metavar="MINUTES",
        # More would be too much for the clock of the system.
        type=options.number(float, at_least=0, below=1e6),
        help="end processes that neither compute, read nor write for so long; 0: never; those of "
        "--use-plugin are not watched",
    )
    group.flag("--sloppy", help="fast and inaccurate, for trials; marked in every output")
    group.flag("--debug", help="log everything, and show tracebacks")
    group.add("-v", "--verbose", action="count", help="more log; repeat for still more")


def add_outputs(group: OptionGroup) -> None:
    """Add what is written."""
    group.add(
        "--output-spaces",
        nargs="+",
        action="extend",
        metavar="SPACE",
        type=options.output_space,
        help="also write the maps on a template, e.g. MNI152NLin2009cAsym:res-2",
    )
    group.add(
        "--atlas",
        nargs="+",
        action="extend",
        metavar="ATLAS",
        type=options.atlas,
        help="regions of the group tables: NIfTI with a TSV beside it, or a TemplateFlow name",
    )
    group.add(
        "--report-output-level",
        choices=("root", "subject", "session"),
        metavar="LEVEL",
        help="folder of the reports: root, subject or session",
    )
    group.flag("--reports-only", help="make the reports again from what is on disk")
    group.flag("--boilerplate-only", help="write the methods text and its references only")
    group.flag(
        "--validate-outputs",
        help="only compare OUTPUT_DIR with its manifest, sidecars, input and ranges of values; "
        "nothing is computed or written",
    )
    group.flag("--overwrite", help="map again what is already mapped")
