"""Plugins of schedulers go on when a job ends without a result."""

from pathlib import Path

import pytest
from nipype.interfaces.utility import Merge
from nipype.pipeline import engine as pe
from nipype.pipeline.plugins import LinearPlugin
from nipype.pipeline.plugins.base import SGELikeBatchManagerBase

from bids_gmvae.cli.plan import _device
from bids_gmvae.cli.plugins import make_plugin
from bids_gmvae.config import ComputeSettings
from bids_gmvae.exceptions import DeviceError, ExitCode
from bids_gmvae.interfaces import FitRuns
from bids_gmvae.interfaces.base import read_failure


class EndsEveryJob(SGELikeBatchManagerBase):
    """A scheduler that takes jobs, and ends them at once."""

    def __init__(self, plugin_args=None):
        super().__init__("", plugin_args=plugin_args)

    def _submit_batchtask(self, scriptfile, node):
        taskid = len(self._pending)
        self._pending[taskid] = node.output_dir()
        return taskid

    def _is_pending(self, taskid):
        return False


def test_a_job_that_ended_harms_its_own_node_only(tmp_path, monkeypatch):
    monkeypatch.setattr("nipype.pipeline.plugins.EndsEveryJobPlugin", EndsEveryJob, raising=False)
    workflow = pe.Workflow("wf", base_dir=tmp_path)
    workflow.add_nodes([pe.Node(Merge(1, in1=[1]), name=name) for name in ("one", "two")])
    workflow.config["execution"] = {
        "crashdump_dir": str(tmp_path / "crashes"),
        "crashfile_format": "txt",
        "job_finished_timeout": "0.1",
        "poll_sleep_duration": "0.1",
        "stop_on_first_crash": "false",
    }
    told = []
    plugin = make_plugin(
        "EndsEveryJob", {"status_callback": lambda node, status: told.append((node.name, status))}
    )
    with pytest.raises(RuntimeError, match="2 raised"):
        workflow.run(plugin=plugin)
    assert {name for name, status in told if status == "exception"} == {"one", "two"}
    crashes = list((tmp_path / "crashes").iterdir())
    assert len(crashes) == 2
    assert all("results file does not exist" in path.read_text() for path in crashes)


def test_other_plugins_are_those_of_nipype():
    assert type(make_plugin("Linear", {})) is LinearPlugin


def test_a_gpu_may_be_on_another_machine_only_if_a_plugin_computes_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plugin = Path("slurm.json")
    assert _device(ComputeSettings(device="cuda", use_plugin=plugin)) == "cuda:0"
    assert _device(ComputeSettings(device="cuda:1", use_plugin=plugin)) == "cuda:1"
    assert _device(ComputeSettings(device="auto", use_plugin=plugin)) == "cpu"
    with pytest.raises(DeviceError, match="needs a CUDA device"):
        _device(ComputeSettings(device="cuda"))


def test_a_fit_that_misses_its_gpu_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    voxels = tmp_path / "voxels.pt"
    voxels.touch()
    fit = FitRuns(
        voxels=[voxels], signal_model="msdki", estimator="lsq", settings={}, device="cuda:0"
    )
    with pytest.raises(DeviceError, match="needs a CUDA device"):
        fit.run(cwd=str(tmp_path))
    assert read_failure(tmp_path)["exit_code"] == ExitCode.DEVICE
