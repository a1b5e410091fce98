"""What a node needs, estimated from the data, and how a scheduler is asked for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from nipype.pipeline import engine as pe

#: Memory of the process that runs the graph and makes the reports, GB.
APP_GB = 1.0

#: Plugins that run nodes on this machine.
LOCAL = ("Debug", "LegacyMultiProc", "Linear", "MultiProc")


def fit_gb(sizes_gb: Iterable[float]) -> float:
    """Estimate the memory of a fit, the largest step: voxels are read from disk, estimates kept.

    Parameters
    ----------
    sizes_gb : iterable of float
        Memory that the image of each run of the group takes, GB.
    """
    return 1.5 + 0.5 * sum(sizes_gb)


def ask_scheduler(workflow: pe.Workflow, plugin: str, plugin_args: Mapping[str, Any]) -> None:
    """Ask for what each node needs, which Nipype knows but tells no scheduler.

    Only SLURM has the same words for it on every cluster.

    Parameters
    ----------
    workflow : Workflow
        Its nodes get ``plugin_args``.
    plugin : str
        Name of the Nipype plugin that will run it.
    plugin_args : mapping
        Those of the user; what they ask for comes last, and wins.
    """
    if plugin in LOCAL:
        return
    # Every look at a job is a call of the scheduler, and its machine's files are seen late.
    workflow.config["execution"] |= {"poll_sleep_duration": "2", "job_finished_timeout": "30"}
    if plugin not in ("SLURM", "SLURMGraph"):
        return
    asked = str(plugin_args.get("sbatch_args", ""))
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        needs = [f"--cpus-per-task={node.n_procs}"]
        # The two exclude each other.
        if "--mem-per-" not in asked:
            needs.append(f"--mem={math.ceil(1000 * node.mem_gb)}M")
        if node.is_gpu_node():
            needs.append("--gres=gpu:1")
        node.plugin_args = {"sbatch_args": " ".join([*needs, asked]).strip(), "overwrite": True}
