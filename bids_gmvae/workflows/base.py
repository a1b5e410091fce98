"""The whole graph: all subjects, and each subject with all its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nipype.pipeline import engine as pe

from bids_gmvae import __version__
from bids_gmvae.config import RunSettings
from bids_gmvae.workflows.dwi import estimation_settings, init_dwi_derivatives_wf, init_dwi_wf
from bids_gmvae.workflows.estimation import init_estimation_wf
from bids_gmvae.workflows.plan import Plan, PlannedRun, node_name
from bids_gmvae.workflows.resources import fit_gb
from bids_gmvae.workflows.sinks import SinkNode

#: Folder within the work directory.
NAME = "gmvae_wf"


def init_gmvae_wf(plan: Plan, settings: RunSettings) -> pe.Workflow:
    """Build the graph of all subjects.

    Parameters
    ----------
    plan : Plan
        What to do.
    settings : RunSettings
        How to do it.
    """
    workflow = pe.Workflow(name=NAME, base_dir=str(settings.execution.work_dir))
    for subject, runs in plan.subjects.items():
        participant = init_participant_wf(
            subject, runs, settings, device=plan.device, datasets=plan.datasets
        )
        workflow.add_nodes([participant])
    if settings.output.overwrite or settings.compute.use_plugin is not None:
        for name in workflow.list_node_names():
            node = workflow.get_node(name)
            # Some plugins tell of no node: only maps that are new prove that they were written.
            if settings.output.overwrite or isinstance(node, SinkNode):
                node.overwrite = True
    return workflow


def init_participant_wf(
    subject: str,
    runs: Sequence[PlannedRun],
    settings: RunSettings,
    *,
    device: str = "cpu",
    datasets: Mapping[str, str] | None = None,
) -> pe.Workflow:
    """Build the graph of one subject: read each run, fit each group, write each map.

    Parameters
    ----------
    subject : str
        Label without ``sub-``.
    runs : sequence of PlannedRun
        Runs of the subject, once per signal model.
    settings : RunSettings
        How to do it.
    device : str
        ``cpu`` or ``cuda:N``.
    datasets : mapping, optional
        Folders of the input datasets, for the ``Sources`` of sidecars.
    """
    workflow = pe.Workflow(name=node_name(f"sub_{subject}_wf"))
    provenance = provenance_of(settings, device=device, datasets=datasets or {})
    readers = {}
    for planned in runs:
        if planned.key not in readers:
            same = [other for other in runs if other.key == planned.key]
            readers[planned.key] = init_dwi_wf(
                planned.run,
                settings.model,
                directional=any(other.directional for other in same),
                omp_nthreads=settings.compute.omp_nthreads,
                size_gb=planned.size_gb,
                name=reader_name(planned),
            )
    for group in dict.fromkeys(planned.group for planned in runs):
        members = [planned for planned in runs if planned.group == group]
        estimation = init_estimation_wf(
            signal_model=members[0].signal_model,
            estimator=members[0].estimator,
            settings=settings.model,
            reasons=[planned.reason for planned in members],
            device=device,
            omp_nthreads=settings.compute.omp_nthreads,
            mem_gb=fit_gb(planned.size_gb for planned in members),
            label=f"{_called(members)} ({members[0].signal_model})",
            name=fit_name(members[0]),
        )
        for index, planned in enumerate(members):
            writer = init_dwi_derivatives_wf(
                planned.run,
                index=index,
                out_dir=settings.output_dir,
                provenance=provenance,
                output_spaces=settings.output.output_spaces,
                size_gb=planned.size_gb,
                name=writer_name(planned),
            )
            workflow.connect(
                [
                    (
                        readers[planned.key],
                        estimation,
                        [("outputnode.voxels", f"runs.in{index + 1}")],
                    ),
                    (
                        estimation,
                        writer,
                        [
                            ("outputnode.results", "inputnode.results"),
                            ("outputnode.fit", "inputnode.fit"),
                        ],
                    ),
                ]
            )
    return workflow


def provenance_of(
    settings: RunSettings, *, device: str, datasets: Mapping[str, str]
) -> dict[str, Any]:
    """Collect what sidecars say about how a map was made, as plain values."""
    return {
        "version": __version__,
        "settings": estimation_settings(settings.model),
        "device": device,
        "sloppy": settings.execution.sloppy,
        "links": dict(datasets),
    }


def _called(members: Sequence[PlannedRun]) -> str:
    """Name a group of runs to the user by its first."""
    others = f" and {len(members) - 1} more" if len(members) > 1 else ""
    return f"{members[0].run.stem}{others}"


def reader_name(planned: PlannedRun) -> str:
    """Name the graph that reads a run."""
    return f"read_{planned.key}"


def fit_name(planned: PlannedRun) -> str:
    """Name the graph that fits the group of a run."""
    return f"fit_{planned.group}"


def writer_name(planned: PlannedRun) -> str:
    """Name the graph that writes a run's maps of one model."""
    return f"write_{planned.key}_{planned.label}"


def affected(node: str, plan: Plan) -> list[PlannedRun]:
    """Tell which planned runs depend on a node.

    Parameters
    ----------
    node : str
        Full name, e.g. ``gmvae_wf.sub_01_wf.read_ses_1.check``.
    plan : Plan
        What the graph was built from.
    """
    parts = node.split(".")
    return [
        planned
        for planned in plan.runs
        if node_name(f"sub_{planned.run.subject}_wf") in parts
        and {reader_name(planned), fit_name(planned), writer_name(planned)} & set(parts)
    ]
