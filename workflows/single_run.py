#!/usr/bin/env python3
"""Map one diffusion run inside a Nipype workflow of your own.

The three graphs below are those of the app: read a run, fit it, write its maps. Here they are
embedded in a workflow that then does something with the maps (it prints their medians).
"""

import argparse
from pathlib import Path

from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from bids_gmvae.config import ExecutionSettings, ModelSettings, RunSettings, SelectionSettings
from bids_gmvae.io.dataset import initialise
from bids_gmvae.modalities.dwi import find_runs
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.workflows import init_dwi_derivatives_wf, init_dwi_wf, init_estimation_wf
from bids_gmvae.workflows.base import provenance_of


def print_medians(maps):
    """Print the median of each map over the brain."""
    import nibabel as nb
    import numpy as np

    for path in maps:
        if "_param-" in path and "_desc-mean_" in path:
            values = nb.load(path).get_fdata()
            inside = values[np.isfinite(values) & (values != 0)]
            if inside.size:
                print(f"{np.median(inside):.4g}  {path}")


def init_my_wf(run, settings, signal_model):
    """Build a workflow that maps a run and uses its maps."""
    reader = init_dwi_wf(
        run, settings.model, directional=get_signal_model(signal_model).directional
    )
    fit = init_estimation_wf(
        signal_model=signal_model,
        estimator=settings.model.estimator,
        settings=settings.model,
        reasons=["as requested"],
    )
    writer = init_dwi_derivatives_wf(
        run,
        index=0,
        out_dir=settings.output_dir,
        provenance=provenance_of(
            settings, device="cpu", datasets={run.dataset: str(run.dataset_root)}
        ),
    )
    mine = pe.Node(Function(input_names=["maps"], function=print_medians), name="mine")

    workflow = pe.Workflow("my_wf", base_dir=str(settings.execution.work_dir))
    workflow.connect(
        [
            (reader, fit, [("outputnode.voxels", "runs.in1")]),
            (
                fit,
                writer,
                [("outputnode.results", "inputnode.results"), ("outputnode.fit", "inputnode.fit")],
            ),
            (writer, mine, [("write.maps", "maps")]),
        ]
    )
    return workflow


def main():
    """Map the first run of a participant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("participant")
    parser.add_argument("--session")
    parser.add_argument("--signal-model", default="msdki")
    parser.add_argument("-w", "--work-dir", type=Path, default=Path("work"))
    options = parser.parse_args()

    settings = RunSettings(
        options.bids_dir.absolute(),
        options.output_dir.absolute(),
        "participant",
        selection=SelectionSettings(
            participant_label=(options.participant,),
            session_label=(options.session,) if options.session else (),
        ),
        model=ModelSettings(signal_model=(options.signal_model,)),
        execution=ExecutionSettings(work_dir=options.work_dir.absolute()),
    )
    runs, _ = find_runs(settings)
    run = runs[0]
    initialise(settings.output_dir, settings, {run.dataset: run.dataset_root})
    init_my_wf(run, settings, options.signal_model).run()


if __name__ == "__main__":
    main()
