"""Decide which voxels are fitted."""

from __future__ import annotations

import json
from pathlib import Path

from nipype.interfaces.base import File, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, RunInterface


class ComputeMaskInputSpec(InputSpec):
    """Inputs of `ComputeMask`."""

    checked = File(exists=True, mandatory=True, desc="JSON of CheckRun")
    mask = traits.Str("auto", usedefault=True, desc="auto, or a NIfTI file on the run's grid")
    b0_threshold = traits.Float(100.0, usedefault=True, desc="largest b-value of a b0, s/mm^2")


class ComputeMaskOutputSpec(TraitedSpec):
    """Outputs of `ComputeMask`."""

    mask = File(exists=True, desc="mask, and where it comes from, npz")


class ComputeMask(RunInterface):
    """Take the mask of the derivative or the user, or make one."""

    input_spec = ComputeMaskInputSpec
    output_spec = ComputeMaskOutputSpec

    def _compute(self, folder: Path) -> None:
        import numpy as np

        from bids_gmvae.interfaces.checked import Checked
        from bids_gmvae.io.atomic import atomic_write
        from bids_gmvae.io.images import open_image
        from bids_gmvae.io.volumes import mean_volume
        from bids_gmvae.masking import find_mask
        from bids_gmvae.voxels import Grid

        checked = Checked.read(Path(self.inputs.checked))
        is_b0 = checked.acquisition.bvals.numpy() <= self.inputs.b0_threshold
        with checked.unchanged():
            image = open_image(checked.run.image)
            found = find_mask(
                lambda: mean_volume(image, is_b0),
                Grid.of(image),
                derivative=checked.run.companions.get("mask"),
                given=None if self.inputs.mask == "auto" else Path(self.inputs.mask),
            )
        path = folder / "mask.npz"
        origin = {"source": found.source, "path": found.path and str(found.path)}
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, mask=found.mask, origin=json.dumps(origin))
        self._results["mask"] = str(path)
