"""The group level's ``--learn-prior``: one prior of all participants, round by round."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.pipeline import engine as pe

from bids_gmvae.cli import reports
from bids_gmvae.cli.execution import run_workflow
from bids_gmvae.cli.logs import LOG_FILE, say
from bids_gmvae.cli.plan import counted
from bids_gmvae.cli.workdir import PRIORS, claimed
from bids_gmvae.cli.workers import run_in_child
from bids_gmvae.config import ModelSettings, RunSettings, SelectionSettings
from bids_gmvae.exceptions import ExitCode, GMVAEError
from bids_gmvae.io.atomic import atomic_write
from bids_gmvae.workflows.prior import init_prior_round_wf, init_prior_start_wf

if TYPE_CHECKING:
    from bids_gmvae.group.prior import Task

LOGGER = logging.getLogger(__name__)


def learn_priors(settings: RunSettings, start_logs: Callable[[], Path]) -> ExitCode:
    """Learn a prior for every signal model that participants were mapped with.

    Parameters
    ----------
    settings : RunSettings
        What the user asked for.
    start_logs : callable
        Creates the folder of this call; not before it is clear that there is work.
    """
    out_dir = settings.output_dir
    execution = settings.execution
    tasks = run_in_child(
        _find_tasks, out_dir, settings.selection, settings.model, execution=execution
    )
    log_dir = start_logs()
    child = partial(run_in_child, log_file=log_dir / LOG_FILE, execution=execution)
    for task in tasks:
        LOGGER.info(
            "Learning a prior (%s) from %s.", task.signal_model, counted(len(task.voxels), "run")
        )
        with claimed(settings.execution.work_dir, [f"the prior of {task.signal_model}"]):
            learning = _learn(task, settings, log_dir)
            say(f"Prior: {child(_write, task, learning, out_dir)}")
    child(reports.finish, out_dir)
    return ExitCode.OK


def _learn(task: Task, settings: RunSettings, log_dir: Path) -> Path:
    """Go on from the last round that was finished, here or in an earlier call; give the file."""
    # The folder's name stands for everything that decides about the prior.
    folder = settings.execution.work_dir / PRIORS / f"{task.label}_{task.digest[:16]}"
    learning = folder / "learning.json"
    n_shards = min(settings.compute.nprocs, len(task.voxels))
    shards = [task.voxels[first::n_shards] for first in range(n_shards)]
    if not learning.exists():
        first = init_prior_start_wf(task.voxels, settings.model, base_dir=folder)
        _advance(first, learning, settings, log_dir)
    while not (state := json.loads(learning.read_text(encoding="utf-8")))["Finished"]:
        number = len(state["Evidence"]) + 1
        step = init_prior_round_wf(shards, learning, number=number, base_dir=folder)
        _advance(step, learning, settings, log_dir)
        evidence = json.loads(learning.read_text(encoding="utf-8"))["Evidence"][-1]
        LOGGER.info("%s, round %d: %.5f nats per voxel", task.signal_model, number, evidence)
    return learning


def _advance(workflow: pe.Workflow, learning: Path, settings: RunSettings, log_dir: Path) -> None:
    """Run the graph of a round, and take over what it gives."""
    failures = run_workflow(workflow, settings, log_dir)
    if failures:
        raise _failed(failures[0].message, failures[0].hint, failures[0].exit_code)
    written = Path(workflow.base_dir, workflow.name, "update", learning.name)
    if not written.exists():
        raise GMVAEError(
            "The round was not finished when the plugin returned.",
            "Use a plugin that waits for its jobs, such as SLURM rather than SLURMGraph.",
        )
    with atomic_write(learning) as temporary:
        shutil.copyfile(written, temporary)


def _failed(message: str, hint: str, exit_code: ExitCode) -> GMVAEError:
    """Raise again here what ended a node, with the exit code it leads to."""
    error = GMVAEError(message, hint)
    error.exit_code = exit_code
    return error


def _find_tasks(out_dir: Path, selection: SelectionSettings, settings: ModelSettings) -> list[Any]:
    from bids_gmvae.group.prior import find_tasks

    return find_tasks(out_dir, selection, settings)


def _write(task: Task, learning: Path, out_dir: Path) -> Path:
    from bids_gmvae.group.prior import Learning, write_group_prior

    return write_group_prior(task, Learning.read(learning), out_dir)
