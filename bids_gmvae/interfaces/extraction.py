"""Turn an image into rows of voxels."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from nipype.interfaces.base import File, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, RunInterface

LOGGER = logging.getLogger(__name__)


class ExtractVoxelsInputSpec(InputSpec):
    """Inputs of `ExtractVoxels`."""

    run = traits.Dict(mandatory=True, desc="the run, as Run.to_dict() gives it")
    checked = File(exists=True, mandatory=True, desc="JSON of CheckRun")
    mask = File(exists=True, mandatory=True, desc="npz of ComputeMask")
    settings = traits.Dict(desc="noise and thresholds: fields of ModelSettings")
    directional = traits.Bool(False, usedefault=True, desc="a signal model uses directions")


class ExtractVoxelsOutputSpec(TraitedSpec):
    """Outputs of `ExtractVoxels`."""

    voxels = File(exists=True, desc="signals, noise level and acquisition: a MeasuredRun")


class ExtractVoxels(RunInterface):
    """Check the values of an image, keep those to fit, and estimate their noise."""

    input_spec = ExtractVoxelsInputSpec
    output_spec = ExtractVoxelsOutputSpec

    def _compute(self, folder: Path) -> None:
        import nibabel as nb
        import numpy as np

        from bids_gmvae.config import ModelSettings
        from bids_gmvae.io.images import read_data
        from bids_gmvae.io.measured import measure, read_checked
        from bids_gmvae.io.run import Run
        from bids_gmvae.modalities.base import raise_errors
        from bids_gmvae.modalities.dwi import check_data

        settings = ModelSettings(**self.inputs.settings)
        run = Run.from_dict(self.inputs.run)
        acquisition, selected, checked = read_checked(Path(self.inputs.checked))
        masks = np.load(self.inputs.mask)
        mask = masks["mask"]
        data, grid = read_data(run.image)
        found = check_data(
            data,
            mask,
            acquisition,
            settings,
            directional=self.inputs.directional,
            voxel_size=nb.affines.voxel_sizes(grid.affine),
        )
        raise_errors(found)
        for issue in found:
            level = logging.WARNING if issue.severity == "warning" else logging.DEBUG
            LOGGER.log(level, "%s: %s %s", run.stem, issue.text, issue.hint)
        every = [*checked["issues"], *(issue.to_dict() for issue in found)]
        checked["issues"] = run.without_folders(every)
        info = {**checked, "mask": json.loads(str(masks["info"]))}
        measured = measure(
            run,
            grid,
            data,
            mask=mask,
            removed=masks["removed"],
            acquisition=acquisition,
            selected=selected,
            settings=settings,
            info=info,
        )
        path = folder / "voxels.pt"
        measured.save(path)
        self._results["voxels"] = str(path)
