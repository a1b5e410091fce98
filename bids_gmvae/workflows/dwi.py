"""One diffusion run: from its files to rows of voxels, and from its estimate to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from bids_gmvae.config import ModelSettings
from bids_gmvae.interfaces import (
    CheckRun,
    ComputeMask,
    DrawReportlets,
    ExtractVoxels,
    ResampleToTemplate,
    WriteDerivatives,
)
from bids_gmvae.io.run import Run
from bids_gmvae.io.sources import preprocessed_by_qsiprep
from bids_gmvae.workflows.plan import node_name
from bids_gmvae.workflows.sinks import SinkNode

#: Settings that reading an image depends on; the others must not make it be read again.
CHECK_SETTINGS = (
    "min_b", "max_b", "b0_threshold", "shell_tolerance", "min_volumes", "mask", "noise_map",
)  # fmt: skip
NOISE_SETTINGS = ("noise_model", "noise_map", "b0_threshold", "shell_tolerance")


def init_dwi_wf(
    run: Run,
    settings: ModelSettings,
    *,
    directional: bool = False,
    omp_nthreads: int = 1,
    size_gb: float = 0.5,
    name: str = "dwi_wf",
) -> pe.Workflow:
    """Build the graph that checks, masks and reads a run.

    Parameters
    ----------
    run : Run
        What is read.
    settings : ModelSettings
        Thresholds, mask and noise.
    directional : bool
        Whether a signal model will use the gradient directions: they are checked then.
    omp_nthreads : int
        Threads of the noise estimate.
    size_gb : float
        Memory that the image takes, GB.
    name : str
        Name of the workflow.

    Outputs
    -------
    voxels
        Noise level and acquisition of the run, one file; its signals lie beside it.
    """
    workflow = pe.Workflow(name=name)
    check = pe.Node(
        CheckRun(
            run=run.to_dict(),
            qsiprep=preprocessed_by_qsiprep(run),
            settings=pick(settings, CHECK_SETTINGS),
        ),
        name="check",
        mem_gb=0.5,
    )
    mask = pe.Node(
        ComputeMask(mask=settings.mask, b0_threshold=settings.b0_threshold),
        name="mask",
        mem_gb=0.5 + 0.1 * size_gb,
    )
    extract = pe.Node(
        ExtractVoxels(
            settings=pick(settings, NOISE_SETTINGS),
            directional=directional,
            n_threads=omp_nthreads,
        ),
        name="extract",
        n_procs=omp_nthreads,
        mem_gb=0.8 + 0.4 * size_gb,
    )
    # Nipype would remove the signals, which nobody asks for by name.
    extract.config = {"execution": {"remove_unnecessary_outputs": "false"}}
    outputnode = pe.Node(niu.IdentityInterface(fields=["voxels"]), name="outputnode")
    workflow.connect(
        [
            (check, mask, [("checked", "checked")]),
            (check, extract, [("checked", "checked")]),
            (mask, extract, [("mask", "mask")]),
            (extract, outputnode, [("voxels", "voxels")]),
        ]
    )
    return workflow


def init_dwi_derivatives_wf(
    run: Run,
    *,
    index: int,
    out_dir: Path,
    provenance: Mapping[str, Any],
    output_spaces: Sequence[str] = (),
    size_gb: float = 0.5,
    name: str = "dwi_derivatives_wf",
) -> pe.Workflow:
    """Build the graph that writes the maps and figures of one run.

    Parameters
    ----------
    run : Run
        The source.
    index : int
        Position of the run within its group.
    out_dir : Path
        Root of the output dataset.
    provenance : mapping
        For the sidecars.
    output_spaces : sequence of str
        Templates as ``NAME`` or ``NAME:res-N``.
    size_gb : float
        Memory that the image takes, GB.
    name : str
        Name of the workflow.

    Inputs
    ------
    results
        Estimates of all runs of the group.
    fit
        The fit they come from.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=["results", "fit"]), name="inputnode")
    select = pe.Node(niu.Select(index=[index]), name="select", run_without_submitting=True)
    write = SinkNode(
        WriteDerivatives(out_dir=str(out_dir), provenance=dict(provenance)),
        name="write",
        mem_gb=0.8 + 0.15 * size_gb,
    )
    figures = SinkNode(
        DrawReportlets(out_dir=str(out_dir), sloppy=bool(provenance.get("sloppy"))),
        name="figures",
        mem_gb=0.8 + 0.15 * size_gb,
    )
    workflow.connect(
        [
            (inputnode, select, [("results", "inlist")]),
            (select, write, [("out", "result")]),
            (inputnode, write, [("fit", "fit")]),
            (write, figures, [("result", "result")]),
        ]
    )
    for target in output_spaces:
        space, _, resolution = target.partition(":res-")
        resample = SinkNode(
            ResampleToTemplate(
                run=run.to_dict(), out_dir=str(out_dir), space=space, resolution=resolution
            ),
            name=f"to_{node_name(target)}",
            mem_gb=1.5,
        )
        workflow.connect([(write, resample, [("maps", "maps")])])
    return workflow


def pick(settings: ModelSettings, names: Sequence[str]) -> dict[str, Any]:
    """Take some settings as plain values; what is not taken does not change a node's hash."""
    return plain({name: getattr(settings, name) for name in names})


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn paths into text, for Nipype's inputs."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def estimation_settings(settings: ModelSettings) -> dict[str, Any]:
    """Take the settings of a fit, as plain values."""
    return plain(asdict(settings))
