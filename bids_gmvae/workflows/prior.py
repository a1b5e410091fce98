"""One prior for many participants: a graph for the start, and one for each round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from bids_gmvae.config import ModelSettings
from bids_gmvae.interfaces import StartPrior, SumContributions, UpdatePrior
from bids_gmvae.workflows.dwi import pick

#: Settings that a prior depends on.
PRIOR_SETTINGS = ("n_components", "free_water_anchor", "random_seed")

#: Of any of the nodes, GB: the voxels of one file at a time.
MEM_GB = 1.5


def init_prior_start_wf(
    voxels: Sequence[Path], settings: ModelSettings, *, base_dir: Path
) -> pe.Workflow:
    """Build the graph that learns a first prior from a few voxels of every file.

    Parameters
    ----------
    voxels : sequence of Path
        What participants left to learn from.
    settings : ModelSettings
        Components, anchor and seed.
    base_dir : Path
        Where the graph works.

    Outputs
    -------
    learning
        The prior; of the node ``update``.
    """
    workflow = pe.Workflow(name="start", base_dir=str(base_dir))
    start = StartPrior(voxels=list(map(str, voxels)), settings=pick(settings, PRIOR_SETTINGS))
    workflow.add_nodes([pe.Node(start, name="update", mem_gb=MEM_GB)])
    return workflow


def init_prior_round_wf(
    shards: Sequence[Sequence[Path]], learning: Path, *, number: int, base_dir: Path
) -> pe.Workflow:
    """Build the graph of one round: every shard sums what its voxels say, then all are added.

    Parameters
    ----------
    shards : sequence of sequence of Path
        Files that one job reads.
    learning : Path
        The prior so far.
    number : int
        Of the round.
    base_dir : Path
        Where the graph works.

    Outputs
    -------
    learning
        The next prior; of the node ``update``.
    """
    workflow = pe.Workflow(name=f"round_{number}", base_dir=str(base_dir))
    merge = pe.Node(niu.Merge(len(shards)), name="merge", run_without_submitting=True)
    update = pe.Node(UpdatePrior(learning=str(learning)), name="update", mem_gb=MEM_GB)
    workflow.connect([(merge, update, [("out", "statistics")])])
    for index, voxels in enumerate(shards, start=1):
        shard = pe.Node(
            SumContributions(voxels=list(map(str, voxels)), learning=str(learning)),
            name=f"shard_{index}",
            mem_gb=MEM_GB,
        )
        workflow.connect([(shard, merge, [("statistics", f"in{index}")])])
    return workflow
