"""Run the graphs, and find out what became of each run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe
from nipype.pipeline.plugins.base import PluginBase

from bids_gmvae.cli.failures import Failure, find_crash_files, find_failure
from bids_gmvae.cli.logs import LOG_FILE
from bids_gmvae.cli.plugins import make_plugin, read_plugin
from bids_gmvae.cli.pool import WorkerPool
from bids_gmvae.cli.signals import insist
from bids_gmvae.cli.workers import KILLED
from bids_gmvae.config import RunSettings
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.workflows.base import (
    NAME,
    affected,
    init_gmvae_wf,
    reader_name,
    writer_name,
)
from bids_gmvae.workflows.plan import Plan, PlannedRun, node_name
from bids_gmvae.workflows.resources import ask_scheduler

LOGGER = logging.getLogger(__name__)

#: What is told when a node of that name starts.
STEPS = {
    "extract": "reading",
    "fit": "fitting",
    "write": "writing maps",
    "figures": "drawing figures",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a planned run.

    Attributes
    ----------
    planned : PlannedRun
        The run.
    failures : tuple of Failure
        What went wrong; empty if nothing did.
    """

    planned: PlannedRun
    failures: tuple[Failure, ...] = ()

    @property
    def mapped(self) -> bool:
        """Whether its maps are written; figures or standard space may still have failed."""
        return not any(failure.node.endswith(_ESSENTIAL) for failure in self.failures)

    @property
    def unread(self) -> bool:
        """Whether its voxels were not read, without which its group cannot be fitted."""
        reader = reader_name(self.planned)
        return any(reader in failure.node.split(".") for failure in self.failures)

    @property
    def killed(self) -> bool:
        """Whether it failed with a worker that was killed, be it for its sake or another's."""
        return any(failure.message == KILLED.message for failure in self.failures)

    @property
    def exit_code(self) -> ExitCode:
        """What the run leads to."""
        if not self.failures:
            return ExitCode.OK
        if not self.mapped:
            essential = (item for item in self.failures if item.node.endswith(_ESSENTIAL))
            return next(essential).exit_code
        if all(failure.node.endswith(".figures") for failure in self.failures):
            return ExitCode.REPORT_FAILED
        return ExitCode.RUN_FAILED


_ESSENTIAL = (".check", ".mask", ".extract", ".runs", ".fit", ".select", ".write")


def execute(plan: Plan, settings: RunSettings, log_dir: Path) -> list[Outcome]:
    """Map every planned run; the failure of one does not harm the others.

    A run that fails before the fit would keep its whole group from being fitted, so the rest of
    the group is run again without it. When a worker is killed, all that were being computed fail
    with it; their participants are run again one at a time, so that only the guilty fail. What is
    finished by then is taken from the work directory.

    Parameters
    ----------
    plan : Plan
        What to do.
    settings : RunSettings
        How to do it.
    log_dir : Path
        For crash files.
    """
    outcomes: dict[str, Outcome] = {}
    told: dict[str, str] = {}
    earlier = {planned.title: _first_file(planned, settings) for planned in plan.runs}
    passes = [(plan, settings)]
    while passes:
        current, how = passes.pop()
        failures = run_graph(current, how, log_dir, told)
        met = [(failure, affected(failure.node, current)) for failure in failures]
        for planned in current.runs:
            own = (failure for failure, runs in met if planned in runs)
            outcomes[planned.title] = Outcome(planned, tuple(own))
        if settings.execution.stop_on_first_crash and failures:
            break
        passes += _repetitions(current, how, [outcomes[each.title] for each in current.runs])
    return [
        _confirmed(outcome, settings, told, earlier=earlier[title])
        for title, outcome in outcomes.items()
    ]


def _repetitions(
    plan: Plan, settings: RunSettings, outcomes: Sequence[Outcome]
) -> Iterator[tuple[Plan, RunSettings]]:
    """Give what a pass leaves to be run again, and how."""
    alone = replace(settings, compute=replace(settings.compute, nprocs=1))
    killed = {each.planned.run.subject for each in outcomes if each.killed and settings != alone}
    if killed:
        LOGGER.warning(
            "A worker process was killed. Whatever it met is repeated, one at a time; "
            "what fails again needs more memory."
        )
        runs = tuple(item for item in plan.runs if item.run.subject in killed)
        yield replace(plan, runs=runs), alone
    others = [each for each in outcomes if each.planned.run.subject not in killed]
    spoilt = {(each.planned.run.subject, each.planned.group) for each in others if each.unread}
    read = (each.planned for each in others if not each.unread)
    runs = tuple(item for item in read if (item.run.subject, item.group) in spoilt)
    if runs:
        yield replace(plan, runs=runs), settings


def run_graph(
    plan: Plan, settings: RunSettings, log_dir: Path, told: dict[str, str]
) -> list[Failure]:
    """Run the graph of a plan once, and give the nodes that failed.

    Parameters
    ----------
    plan, settings, log_dir
        See `execute`.
    told : dict
        The last status of each node is put into it by full name, if the plugin tells of any.

    Raises
    ------
    InputError
        If the plugin file is wrong.
    """
    several = len({planned.signal_model for planned in plan.runs}) > 1

    def title(node: pe.Node) -> str:
        met = affected(node.fullname, plan)
        names = ", ".join(dict.fromkeys(item.run.stem for item in met))
        models = {item.signal_model for item in met}
        of_model = f" ({models.pop()})" if several and len(models) == 1 else ""
        return f"{names}{of_model}: {STEPS.get(node.name, node.name)}"

    def follow(node: pe.Node, status: str) -> None:
        told[node.fullname] = status
        if status == "start" and node.name in STEPS:
            LOGGER.info("%s", title(node))

    workflow = init_gmvae_wf(plan, settings)
    return run_workflow(
        workflow, settings, log_dir, device=plan.device, follow=follow, title=title
    )


def run_workflow(
    workflow: pe.Workflow,
    settings: RunSettings,
    log_dir: Path,
    *,
    device: str = "cpu",
    follow: Callable[[pe.Node, str], None] | None = None,
    title: Callable[[pe.Node], str] = attrgetter("name"),
) -> list[Failure]:
    """Run any graph, and give the nodes that failed.

    Parameters
    ----------
    workflow : Workflow
        Its base directory is in the work directory.
    settings : RunSettings
        Resources, plugin, what to record.
    log_dir : Path
        For crash files.
    device : str
        ``cpu`` or ``cuda:N``.
    follow : callable, optional
        Told about each node and its status, if the plugin tells of any.
    title : callable, optional
        Names a node to the user.

    Raises
    ------
    InputError
        If the plugin file is wrong.
    """
    workflow.config["execution"] = {
        "hash_method": "content",
        "crashdump_dir": str(log_dir),
        "crashfile_format": "txt",
        "create_report": "false",
        "poll_sleep_duration": "0.1",
        "remove_unnecessary_outputs": "false",
        "stop_on_first_crash": str(settings.execution.stop_on_first_crash).lower(),
    }
    if settings.execution.write_graph:
        draw_graph(workflow, log_dir)
    failed: list[pe.Node] = []

    def note(node: pe.Node, status: str) -> None:
        insist()
        if status == "exception":
            failed.append(node)
        if follow is not None:
            follow(node, status)

    with _plugin(workflow, device, settings, log_dir, note, title) as plugin:
        try:
            workflow.run(plugin=plugin)
        except Exception:
            # Nipype raises when any node failed; the caller tells of those, and `_confirmed`
            # does not take a run for done whose nodes were left out.
            if not failed:
                raise
            LOGGER.debug("Nipype stopped with failed nodes", exc_info=True)
    monitored = Path(workflow.base_dir, workflow.name, "resource_monitor.json")
    if settings.execution.resource_monitor and monitored.exists():
        try:
            shutil.copyfile(monitored, log_dir / monitored.name)
        except OSError as error:
            LOGGER.warning("What was monitored stays in %s: %s", monitored, error)
    crash_files = find_crash_files(log_dir) if failed else {}
    return [find_failure(node, crash_files.get(node.fullname)) for node in failed]


def draw_graph(workflow: pe.Workflow, folder: Path) -> None:
    """Write ``graph.dot`` and, where graphviz is installed, ``graph.svg``."""
    try:
        workflow.write_graph(
            str(folder / "graph.dot"), graph2use="hierarchical", format="svg", simple_form=True
        )
    except OSError as error:
        LOGGER.warning("The graph is written as graph.dot, but not drawn: %s", error)


@contextmanager
def _plugin(
    workflow: pe.Workflow,
    device: str,
    settings: RunSettings,
    log_dir: Path,
    follow: Callable[[pe.Node, str], None],
    title: Callable[[pe.Node], str],
) -> Iterator[PluginBase]:
    """Choose what runs the nodes; stop its workers whatever happens."""
    if settings.compute.use_plugin is not None:
        options = read_plugin(settings.compute.use_plugin)
        options["plugin_args"]["status_callback"] = follow
        ask_scheduler(workflow, **options)
        yield make_plugin(**options)
        return
    arguments: dict[str, Any] = {
        "n_procs": settings.compute.nprocs,
        "raise_insufficient": False,
        "status_callback": follow,
    }
    if settings.compute.mem_mb is not None:
        arguments["memory_gb"] = settings.compute.mem_mb / 1000
    if device != "cpu":
        # Without it Nipype counts GPUs itself, and refuses GPU nodes if it finds none.
        arguments["n_gpu_procs"] = 1
    log_file = log_dir / LOG_FILE
    with WorkerPool(
        arguments, execution=settings.execution, log_file=log_file, title=title
    ) as pool:
        yield pool


def _first_file(planned: PlannedRun, settings: RunSettings) -> tuple[int, int] | None:
    """Identify the first map of a run as it is on disk: whoever writes it anew changes this."""
    with suppress(FileNotFoundError):
        stat = (settings.output_dir / planned.outputs[0]).stat()
        return stat.st_ino, stat.st_mtime_ns
    return None


def _confirmed(
    outcome: Outcome,
    settings: RunSettings,
    told: dict[str, str],
    *,
    earlier: tuple[int, int] | None,
) -> Outcome:
    """Believe in maps only if this call wrote them, or found that they need not be written.

    Some plugins return before the work is done, and tell of no node; then the files count, if they
    are not those that were there earlier.
    """
    planned = outcome.planned
    node = f"{NAME}.{node_name(f'sub_{planned.run.subject}_wf')}.{writer_name(planned)}.write"
    if told:
        written = told.get(node) == "end"
    else:
        written = _first_file(planned, settings) not in (None, earlier)
    if not outcome.mapped or written:
        return outcome
    message = "Its maps were not written when the plugin returned."
    hint = "If jobs are still running, wait for them; else see the logs of the plugin."
    if settings.execution.stop_on_first_crash:
        message = "It was not reached: another run failed first."
        hint = "Leave out --stop-on-first-crash to go on with the others."
    missing = Failure(node, message, hint, ExitCode.RUN_FAILED, None)
    return replace(outcome, failures=(*outcome.failures, missing))
