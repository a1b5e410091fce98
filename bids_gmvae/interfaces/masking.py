"""Decide which voxels are fitted."""

from __future__ import annotations

import json
from pathlib import Path

from nipype.interfaces.base import File, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, RunInterface


class ComputeMaskInputSpec(InputSpec):
    """Inputs of `ComputeMask`."""

    run = traits.Dict(mandatory=True, desc="the run, as Run.to_dict() gives it")
    checked = File(exists=True, mandatory=True, desc="JSON of CheckRun")
    mask = traits.Str("auto", usedefault=True, desc="auto, or a NIfTI file on the run's grid")
    b0_threshold = traits.Float(100.0, usedefault=True, desc="largest b-value of a b0, s/mm^2")


class ComputeMaskOutputSpec(TraitedSpec):
    """Outputs of `ComputeMask`."""

    mask = File(exists=True, desc="mask, voxels removed from it, source and counts, npz")


class ComputeMask(RunInterface):
    """Take the mask of the derivative or the user, or make one; keep voxels with signal."""

    input_spec = ComputeMaskInputSpec
    output_spec = ComputeMaskOutputSpec

    def _compute(self, folder: Path) -> None:
        import numpy as np

        from bids_gmvae.io.images import read_data
        from bids_gmvae.io.run import Run
        from bids_gmvae.masking import compute_mask

        run = Run.from_dict(self.inputs.run)
        checked = json.loads(Path(self.inputs.checked).read_text(encoding="utf-8"))
        data, grid = read_data(run.image)
        mask = compute_mask(
            data,
            np.array(checked["acquisition"]["bvals"]) <= self.inputs.b0_threshold,
            grid,
            derivative=run.companions.get("mask"),
            given=None if self.inputs.mask == "auto" else Path(self.inputs.mask),
        )
        info = {"source": mask.source, "path": mask.path and str(mask.path), "counts": mask.counts}
        path = folder / "mask.npz"
        np.savez_compressed(path, mask=mask.mask, removed=mask.removed, info=json.dumps(info))
        self._results["mask"] = str(path)
