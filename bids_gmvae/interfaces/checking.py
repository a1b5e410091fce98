"""Check a run before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

from nipype.interfaces.base import File, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, RunInterface


class CheckRunInputSpec(InputSpec):
    """Inputs of `CheckRun`."""

    run = traits.Dict(mandatory=True, desc="the run, as Run.to_dict() gives it")
    # Read from a file of the dataset that is no file of the run: only here it is in the hash.
    qsiprep = traits.Bool(desc="whether QSIPrep made it, which decides the frame of directions")
    settings = traits.Dict(desc="thresholds: fields of ModelSettings")


class CheckRunOutputSpec(TraitedSpec):
    """Outputs of `CheckRun`."""

    checked = File(exists=True, desc="acquisition, selected volumes, shells and issues, JSON")


class CheckRun(RunInterface):
    """Read gradient tables and headers, and refuse what cannot be mapped."""

    input_spec = CheckRunInputSpec
    output_spec = CheckRunOutputSpec

    def _compute(self, folder: Path) -> None:
        from bids_gmvae.config import ModelSettings
        from bids_gmvae.io.atomic import write_text
        from bids_gmvae.io.run import Run
        from bids_gmvae.io.stamps import stamped, to_plain
        from bids_gmvae.modalities.base import raise_errors
        from bids_gmvae.modalities.dwi import check

        run = Run.from_dict(self.inputs.run)
        with stamped(run.all_files) as stamps:
            checked = check(run, ModelSettings(**self.inputs.settings))
            raise_errors(checked.issues)
        columns = checked.acquisition.columns if checked.acquisition else {}
        content = {
            "run": self.inputs.run,
            # Nipype compares the content of all files to decide whether to check again. Stages
            # that follow need not read them once more: this file changes with their digests.
            # Their times are in it, too, but a file that was only touched is not checked again.
            "files": to_plain(stamps),
            "acquisition": {name: column.tolist() for name, column in columns.items()},
            "selected": checked.selected.tolist(),
            "frame": checked.frame,
            "shells": checked.shells,
            "issues": [issue.to_dict() for issue in checked.issues],
        }
        path = folder / "checked.json"
        write_text(path, json.dumps(content, indent=1))
        self._results["checked"] = str(path)
