"""One fit to one or several runs."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from bids_gmvae.config import ModelSettings
from bids_gmvae.interfaces import FitRuns
from bids_gmvae.workflows.dwi import estimation_settings


def init_estimation_wf(
    *,
    signal_model: str,
    estimator: str,
    settings: ModelSettings,
    reasons: Sequence[str],
    device: str = "cpu",
    omp_nthreads: int = 1,
    mem_gb: float = 2.0,
    label: str = "",
    name: str = "estimation_wf",
) -> pe.Workflow:
    """Build the graph that fits runs together.

    Parameters
    ----------
    signal_model, estimator : str
        Registered names.
    settings : ModelSettings
        Of the estimator.
    reasons : sequence of str
        Why this model, one per run.
    device : str
        ``cpu`` or ``cuda:N``; with CUDA the node takes a GPU slot.
    omp_nthreads : int
        Threads of the fit.
    mem_gb : float
        Memory it takes, GB.
    label : str
        What the progress bar says.
    name : str
        Name of the workflow.

    Inputs
    ------
    in1, in2, ...
        Voxels of each run, as many as there are ``reasons``; of the node ``runs``.

    Outputs
    -------
    results
        Estimates of each run, in their order.
    fit
        The saved fit.
    """
    workflow = pe.Workflow(name=name)
    on_gpu = device != "cpu"
    runs = pe.Node(niu.Merge(len(reasons)), name="runs", run_without_submitting=True)
    fit = pe.Node(
        FitRuns(
            signal_model=signal_model,
            estimator=estimator,
            settings=estimation_settings(settings),
            reasons=list(reasons),
            device=device,
            use_gpu=on_gpu,
            n_threads=omp_nthreads,
            label=label,
        ),
        name="fit",
        # Nipype takes as many GPU slots as a GPU node has processors.
        n_procs=1 if on_gpu else omp_nthreads,
        mem_gb=mem_gb,
    )
    if settings.reuse_fit is not None:
        fit.inputs.reuse_fit = str(settings.reuse_fit)
    if settings.prior_from is not None:
        fit.inputs.prior_from = str(settings.prior_from)
    outputnode = pe.Node(niu.IdentityInterface(fields=["results", "fit"]), name="outputnode")
    workflow.connect(
        [
            (runs, fit, [("out", "voxels")]),
            (fit, outputnode, [("results", "results"), ("fit", "fit")]),
        ]
    )
    return workflow
