"""Learn one prior from the voxels of many participants."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.base import File, InputMultiObject, TraitedSpec, traits

from bids_gmvae.interfaces.base import InputSpec, RunInterface


class LearningOutputSpec(TraitedSpec):
    """Outputs of `StartPrior` and `UpdatePrior`."""

    learning = File(exists=True, desc="JSON of a Learning: the prior so far")


class StartPriorInputSpec(InputSpec):
    """Inputs of `StartPrior`."""

    voxels = InputMultiObject(File(exists=True), mandatory=True, desc="voxels of each run")
    settings = traits.Dict(desc="fields of ModelSettings")


class StartPrior(RunInterface):
    """Learn a first prior from a few voxels of every run."""

    input_spec = StartPriorInputSpec
    output_spec = LearningOutputSpec

    def _compute(self, folder: Path) -> None:
        import torch

        from bids_gmvae.config import ModelSettings
        from bids_gmvae.group.prior import start

        torch.set_num_threads(1)
        learning = start(
            [Path(path) for path in self.inputs.voxels], ModelSettings(**self.inputs.settings)
        )
        self._results["learning"] = str(learning.write(folder / "learning.json"))


class SumContributionsInputSpec(InputSpec):
    """Inputs of `SumContributions`."""

    voxels = InputMultiObject(File(exists=True), mandatory=True, desc="voxels of each run")
    learning = File(exists=True, mandatory=True, desc="JSON of a Learning")


class SumContributionsOutputSpec(TraitedSpec):
    """Outputs of `SumContributions`."""

    statistics = File(exists=True, desc="sufficient statistics of each run")


class SumContributions(RunInterface):
    """Sum over the voxels of a shard what they contribute to the next prior."""

    input_spec = SumContributionsInputSpec
    output_spec = SumContributionsOutputSpec

    def _compute(self, folder: Path) -> None:
        import torch

        from bids_gmvae.group.prior import Learning, contributions, save_contributions

        # Sums over voxels depend on the number of threads in their last digits.
        torch.set_num_threads(1)
        learning = Learning.read(Path(self.inputs.learning))
        found = contributions([Path(path) for path in self.inputs.voxels], learning)
        save_contributions(found, folder / "statistics.pt")
        self._results["statistics"] = str(folder / "statistics.pt")


class UpdatePriorInputSpec(InputSpec):
    """Inputs of `UpdatePrior`."""

    statistics = InputMultiObject(File(exists=True), mandatory=True, desc="of each shard")
    learning = File(exists=True, mandatory=True, desc="JSON of a Learning")


class UpdatePrior(RunInterface):
    """Take the step that the contributions of all shards lead to."""

    input_spec = UpdatePriorInputSpec
    output_spec = LearningOutputSpec

    def _compute(self, folder: Path) -> None:
        from bids_gmvae.group.prior import Learning, load_contributions

        statistics = load_contributions([Path(path) for path in self.inputs.statistics])
        learning = Learning.read(Path(self.inputs.learning)).after(statistics)
        self._results["learning"] = str(learning.write(folder / "learning.json"))
