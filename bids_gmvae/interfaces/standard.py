"""Bring the maps of a run to a standard space."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.base import File, InputMultiObject, OutputMultiObject, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, SinkInterface


class ResampleToTemplateInputSpec(InputSpec):
    """Inputs of `ResampleToTemplate`."""

    maps = InputMultiObject(
        File(exists=True), mandatory=True, hash_files=False, desc="images in native space"
    )
    run = traits.Dict(mandatory=True, hash_files=False, desc="the run, as Run.to_dict() gives it")
    out_dir = traits.Str(mandatory=True, desc="root of the output dataset")
    space = traits.Str(mandatory=True, desc="TemplateFlow name, e.g. MNI152NLin2009cAsym")
    resolution = traits.Str(desc="TemplateFlow resolution, e.g. 2")


class ResampleToTemplateOutputSpec(TraitedSpec):
    """Outputs of `ResampleToTemplate`."""

    maps = OutputMultiObject(File(exists=True), desc="images in standard space")


class ResampleToTemplate(SinkInterface):
    """Resample the scalar maps through the transform that preprocessing wrote."""

    input_spec = ResampleToTemplateInputSpec
    output_spec = ResampleToTemplateOutputSpec

    def _read(self) -> list[Path]:
        from bids_gmvae.io.run import Run
        from bids_gmvae.io.spaces import parse_space
        from bids_gmvae.io.templates import template_path

        maps = [Path(path) for path in self.inputs.maps]
        described = (path.name.removesuffix(".nii.gz") + ".json" for path in maps)
        sidecars = [path.with_name(name) for path, name in zip(maps, described, strict=True)]
        transform = Run.from_dict(self.inputs.run).companions.get("to_template")
        if transform is None:  # then nothing is written
            return [*maps, *sidecars]
        resolution = f":res-{self.inputs.resolution}" if self.inputs.resolution else ""
        template = template_path(*parse_space(self.inputs.space + resolution))
        return [*maps, *sidecars, transform, template]

    def _write(self) -> list[Path]:
        from bids_gmvae.io.run import Run
        from bids_gmvae.io.spaces import resample_to_template

        written = resample_to_template(
            [Path(path) for path in self.inputs.maps],
            Run.from_dict(self.inputs.run),
            Path(self.inputs.out_dir),
            self.inputs.space,
            self.inputs.resolution or None,
        )
        self._results["maps"] = [str(path) for path in written]
        return written
