"""What nodes need, and how SLURM is asked for it."""

import itertools
from dataclasses import replace

import pytest

from bids_gmvae.config import ComputeSettings
from bids_gmvae.workflows.base import init_gmvae_wf
from bids_gmvae.workflows.plan import Plan
from bids_gmvae.workflows.resources import ask_scheduler, fit_gb
from tests.workflows.test_graphs import planned_run, settings_for


def requests(tmp_path, *, plugin="SLURM", device="cpu", size_gb=0.1, **plugin_args):
    """Give what is asked of the scheduler for each node, by its name."""
    plan = Plan(device, (replace(planned_run(), size_gb=size_gb),))
    settings = settings_for(tmp_path, compute=ComputeSettings(omp_nthreads=3))
    workflow = init_gmvae_wf(plan, settings)
    ask_scheduler(workflow, plugin, plugin_args)
    names = [name for name in workflow.list_node_names() if not name.endswith("node")]
    return {
        name.rpartition(".")[2]: workflow.get_node(name).plugin_args.get("sbatch_args")
        for name in names
    }


def memory_mb(request):
    (word,) = [word for word in request.split() if word.startswith("--mem=")]
    return int(word.removeprefix("--mem=").removesuffix("M"))


@pytest.mark.parametrize("plugin", ["SLURM", "SLURMGraph"])
def test_slurm_is_asked_for_what_each_node_needs(tmp_path, plugin):
    asked = requests(tmp_path, plugin=plugin, size_gb=2.0)
    assert memory_mb(asked["fit"]) == 1000 * fit_gb([2.0])
    assert memory_mb(asked["check"]) < memory_mb(asked["extract"]) < memory_mb(asked["fit"])
    assert "--cpus-per-task=3" in asked["fit"]
    assert "--cpus-per-task=1" in asked["write"]


def test_memory_grows_with_the_image(tmp_path):
    small, large = (requests(tmp_path, size_gb=size) for size in (0.1, 5.0))
    for name in ("extract", "fit", "write"):
        assert memory_mb(small[name]) < memory_mb(large[name])


def test_only_a_fit_on_a_gpu_asks_for_one(tmp_path):
    asked = requests(tmp_path, device="cuda:0")
    assert [name for name, request in asked.items() if "--gres=gpu:1" in request] == ["fit"]
    assert not any("--gres" in request for request in requests(tmp_path).values())


def test_what_the_user_asks_for_comes_last(tmp_path):
    asked = requests(tmp_path, sbatch_args="--mem=9G -p long")
    assert all(request.endswith(" --mem=9G -p long") for request in asked.values())


def test_memory_per_core_takes_the_place_of_memory(tmp_path):
    asked = requests(tmp_path, sbatch_args="--mem-per-cpu=4G")
    assert not any("--mem=" in request for request in asked.values())


@pytest.mark.parametrize("plugin", ["Linear", "MultiProc", "PBS"])
def test_other_plugins_are_not_asked_in_the_words_of_slurm(tmp_path, plugin):
    assert set(requests(tmp_path, plugin=plugin).values()) == {None}


@pytest.mark.parametrize(("plugin", "seconds"), [("MultiProc", 0.1), ("SLURM", 2), ("PBS", 2)])
def test_a_scheduler_is_not_asked_all_the_time(tmp_path, plugin, seconds):
    workflow = init_gmvae_wf(Plan("cpu", (planned_run(),)), settings_for(tmp_path))
    workflow.config["execution"]["poll_sleep_duration"] = "0.1"
    ask_scheduler(workflow, plugin, {})
    assert float(workflow.config["execution"]["poll_sleep_duration"]) == seconds


def test_the_largest_fit_is_that_of_a_whole_group():
    runs = [
        replace(planned_run(subject, run=str(number), group="all"), size_gb=size)
        for (subject, size), number in itertools.product((("01", 1.0), ("02", 1.5)), (1, 2))
    ]
    assert Plan("cpu", tuple(runs)).largest_fit_gb == fit_gb([1.5, 1.5])
    assert Plan("cpu").largest_fit_gb == 0
