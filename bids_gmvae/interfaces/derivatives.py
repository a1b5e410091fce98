"""Write the maps of a run."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.base import File, OutputMultiObject, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, SinkInterface


class WriteDerivativesInputSpec(InputSpec):
    """Inputs of `WriteDerivatives`."""

    result = File(exists=True, mandatory=True, hash_files=False, desc="a RunResult")
    fit = File(exists=True, mandatory=True, hash_files=False, desc="the fit it comes from")
    out_dir = traits.Str(mandatory=True, desc="root of the output dataset")
    provenance = traits.Dict(desc="what sidecars say about version, settings and device")


class WriteDerivativesOutputSpec(TraitedSpec):
    """Outputs of `WriteDerivatives`."""

    result = File(exists=True, desc="the RunResult, once its maps are written")
    maps = OutputMultiObject(File(exists=True), desc="images written")


class WriteDerivatives(SinkInterface):
    """Write maps, sidecars, quality tables and the fit of a run under their BIDS names."""

    input_spec = WriteDerivativesInputSpec
    output_spec = WriteDerivativesOutputSpec

    def _read(self) -> list[Path]:
        return [Path(self.inputs.result), Path(self.inputs.fit)]

    def _write(self) -> list[Path]:
        from bids_gmvae.io.atomic import write_bytes
        from bids_gmvae.io.derivatives import map_path, training_path, write_result
        from bids_gmvae.io.result import RunResult

        result = RunResult.load(Path(self.inputs.result))
        out_dir = Path(self.inputs.out_dir)
        written = write_result(result, out_dir, provenance=self.inputs.provenance)
        label = result.posterior.signal_model.label
        name = map_path(result.run, suffix="fit", desc="gmvae", model=label, extension=".pt")
        fit = write_bytes(out_dir / name, Path(self.inputs.fit).read_bytes())
        self._results["maps"] = [str(path) for path in written if path.name.endswith(".nii.gz")]
        self._results["result"] = self.inputs.result
        # Only some fits leave voxels for a prior of many.
        return [*written, fit, out_dir / training_path(result.run, label)]
