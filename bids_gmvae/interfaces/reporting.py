"""Draw the figures of a run."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.base import File, OutputMultiObject, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, SinkInterface


class DrawReportletsInputSpec(InputSpec):
    """Inputs of `DrawReportlets`."""

    result = File(exists=True, mandatory=True, hash_files=False, desc="a RunResult")
    out_dir = traits.Str(mandatory=True, desc="root of the output dataset")
    sloppy = traits.Bool(False, usedefault=True, desc="a fast test run: the report says so")


class DrawReportletsOutputSpec(TraitedSpec):
    """Outputs of `DrawReportlets`."""

    figures = OutputMultiObject(File(exists=True), desc="figures written")


class DrawReportlets(SinkInterface):
    """Draw every panel of a run's report into ``sub-*/figures``."""

    input_spec = DrawReportletsInputSpec
    output_spec = DrawReportletsOutputSpec

    def _read(self) -> list[Path]:
        return [Path(self.inputs.result)]

    def _write(self) -> list[Path]:
        from bids_gmvae.io.result import RunResult
        from bids_gmvae.report.reportlets import write_reportlets

        result = RunResult.load(Path(self.inputs.result))
        figures = write_reportlets(result, Path(self.inputs.out_dir), sloppy=self.inputs.sloppy)
        self._results["figures"] = [str(path) for path in figures]
        return figures
