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

    checked = File(exists=True, mandatory=True, desc="JSON of CheckRun")
    mask = File(exists=True, mandatory=True, desc="npz of ComputeMask")
    settings = traits.Dict(desc="noise and thresholds: fields of ModelSettings")
    directional = traits.Bool(False, usedefault=True, desc="a signal model uses directions")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads of the noise estimate")


class ExtractVoxelsOutputSpec(TraitedSpec):
    """Outputs of `ExtractVoxels`."""

    voxels = File(exists=True, desc="noise level, acquisition and the rest of a MeasuredRun")
    signals = File(exists=True, desc="its signals, float32; belongs beside it")


class ExtractVoxels(RunInterface):
    """Read an image once: keep the voxels to fit, check their values, estimate their noise."""

    input_spec = ExtractVoxelsInputSpec
    output_spec = ExtractVoxelsOutputSpec

    def _compute(self, folder: Path) -> None:
        import nibabel as nb
        import numpy as np
        import torch

        from bids_gmvae.config import ModelSettings
        from bids_gmvae.estimators.base import Measurements
        from bids_gmvae.interfaces.checked import Checked
        from bids_gmvae.io.images import open_image
        from bids_gmvae.io.measured import MeasuredRun, noise_level, noise_map_faults
        from bids_gmvae.io.volumes import keep, read_rows
        from bids_gmvae.masking import Mask
        from bids_gmvae.modalities.base import Issue, raise_errors
        from bids_gmvae.modalities.dwi import check_data
        from bids_gmvae.voxels import Grid, unmask

        torch.set_num_threads(1)  # the chunks have threads of their own
        settings = ModelSettings(**self.inputs.settings)
        checked = Checked.read(Path(self.inputs.checked))
        run, acquisition = checked.run, checked.acquisition
        saved = np.load(self.inputs.mask)
        origin = json.loads(str(saved["origin"]))
        found = Mask(saved["mask"], **origin)

        is_b0 = acquisition.bvals.numpy() <= settings.b0_threshold
        with checked.unchanged():
            image = open_image(run.image)
            grid = Grid.of(image)
            rows = read_rows(image, found.mask, is_b0, folder / "signals.f32")
        removed = unmask(~rows.supported, found.mask, fill=False)
        mask = found.without(removed)
        signals = keep(rows.signals, rows.supported, axis=0)
        issues = check_data(
            signals,
            mask,
            acquisition,
            settings,
            directional=self.inputs.directional,
            voxel_size=nb.affines.voxel_sizes(grid.affine),
        )
        raise_errors(issues)
        issues += [Issue("warning", *fault) for fault in noise_map_faults(mask, grid, settings)]
        for issue in issues:
            level = logging.WARNING if issue.severity == "warning" else logging.DEBUG
            LOGGER.log(level, "%s: %s %s", run.stem, issue.text, issue.hint)

        every = [*checked.info["issues"], *(issue.to_dict() for issue in issues)]
        counts = {"given": found.mask, "removed": removed, "kept": mask}
        info = {
            **checked.info,
            "issues": run.without_folders(every),
            "mask": {**origin, "counts": {name: int(x.sum()) for name, x in counts.items()}},
        }
        used = acquisition.select(torch.from_numpy(checked.selected))
        measured = torch.from_numpy(keep(signals, checked.selected, axis=1))
        sigma = noise_level(measured, mask, grid, used, settings, n_threads=self.inputs.n_threads)
        path = folder / "voxels.pt"
        measurements = Measurements(measured, sigma, used)
        MeasuredRun(run, grid, mask, removed, rows.reference, measurements, info).save(
            path, signals=folder / "signals.f32"
        )
        self._results.update(voxels=str(path), signals=str(folder / "signals.f32"))
