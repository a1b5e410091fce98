"""The graphs are built and expanded over the options, without being run."""

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from nipype.pipeline.engine.utils import generate_expanded_graph

from bids_gmvae.config import (
    ComputeSettings,
    ExecutionSettings,
    ModelSettings,
    OutputSettings,
    RunSettings,
)
from bids_gmvae.interfaces.base import SinkInterface
from bids_gmvae.io.run import Run
from bids_gmvae.workflows.base import affected, init_gmvae_wf
from bids_gmvae.workflows.plan import Plan, PlannedRun, run_key
from bids_gmvae.workflows.sinks import SinkNode


def planned_run(subject="01", *, session=None, run=None, model="msdki", group=None):
    """Plan a run whose files need not exist."""
    entities = {"subject": subject, "session": session, "run": run}
    entities = {key: value for key, value in entities.items() if value}
    short = {"subject": "sub", "session": "ses", "run": "run"}
    stem = "_".join(f"{short[key]}-{value}" for key, value in entities.items())
    source = Run("dwi", (Path(f"/data/{stem}_dwi.nii.gz"),), entities, dataset_root=Path("/data"))
    return PlannedRun(
        run=source,
        signal_model=model,
        label=model,
        reason="as requested",
        directional=False,
        estimator="lsq",
        mask="median_otsu",
        frame="",
        shells=(),
        issues=(),
        n_volumes=20,
        size_gb=0.1,
        group=group or f"{run_key(source)}_{model}",
        outputs=("a.nii.gz",),
    )


def settings_for(work_dir, **sections):
    """Give settings with other sections than the default ones."""
    settings = RunSettings(Path("/data"), Path("/out"), "participant")
    return replace(settings, execution=ExecutionSettings(work_dir=work_dir), **sections)


def nodes_of(plan, settings):
    """Expand the graph as Nipype does before it runs it."""
    graph = init_gmvae_wf(plan, settings)._create_flat_graph()
    return list(generate_expanded_graph(graph).nodes())


def find(nodes, name):
    return [node for node in nodes if node.name == name]


@pytest.mark.parametrize(
    ("device", "spaces", "overwrite"),
    list(
        itertools.product(
            ("cpu", "cuda:0"),
            ((), ("MNI152NLin2009cAsym:res-2",)),
            (False, True),
        )
    ),
)
def test_graphs_expand_over_the_options(tmp_path, device, spaces, overwrite):
    settings = settings_for(
        tmp_path,
        compute=ComputeSettings(omp_nthreads=3),
        output=OutputSettings(output_spaces=spaces, overwrite=overwrite),
    )
    plan = Plan(device, (planned_run(), planned_run("02", session="a", run="1")))
    nodes = nodes_of(plan, settings)
    assert len({node.fullname for node in nodes}) == len(nodes)
    for name in ("check", "mask", "extract", "fit", "write", "figures"):
        assert len(find(nodes, name)) == 2
    assert len(find(nodes, "to_MNI152NLin2009cAsym_res_2")) == 2 * len(spaces)
    for node in find(nodes, "fit"):
        assert node.is_gpu_node() == (device != "cpu")
        assert node.n_procs == (3 if device == "cpu" else 1)
        assert bool(node.overwrite) == overwrite


def test_only_the_fit_takes_a_gpu(tmp_path):
    nodes = nodes_of(Plan("cuda:0", (planned_run(),)), settings_for(tmp_path))
    assert [node.name for node in nodes if node.is_gpu_node()] == ["fit"]


def test_what_writes_outputs_looks_whether_they_are_there(tmp_path):
    settings = settings_for(tmp_path, output=OutputSettings(output_spaces=("MNI152NLin6Asym",)))
    nodes = nodes_of(Plan("cpu", (planned_run(),)), settings)
    sinks = {node.name for node in nodes if isinstance(node.interface, SinkInterface)}
    assert sinks == {"write", "figures", "to_MNI152NLin6Asym"}
    assert {node.name for node in nodes if isinstance(node, SinkNode)} == sinks


def test_runs_of_a_group_share_a_fit(tmp_path):
    runs = [planned_run(run=str(number), group="both") for number in (1, 2)]
    nodes = nodes_of(Plan("cpu", tuple(runs)), settings_for(tmp_path))
    (fit,) = find(nodes, "fit")
    assert fit.inputs.reasons == ["as requested"] * 2
    assert sorted(node.inputs.index for node in find(nodes, "select")) == [[0], [1]]


def test_models_of_a_run_share_its_voxels(tmp_path):
    runs = (planned_run(), replace(planned_run(model="bs"), directional=True))
    nodes = nodes_of(Plan("cpu", runs), settings_for(tmp_path))
    (extract,) = find(nodes, "extract")
    assert extract.inputs.directional
    assert len(find(nodes, "fit")) == 2


def test_reading_does_not_depend_on_the_estimator(tmp_path):
    def hashes(model):
        settings = settings_for(tmp_path, model=model)
        nodes = nodes_of(Plan("cpu", (planned_run(),)), settings)
        return {
            node.name: node.inputs.get_hashval(hash_method="content")[1]
            for node in nodes
            if node.name in ("check", "mask", "extract", "fit")
        }

    one, other = hashes(ModelSettings()), hashes(ModelSettings(n_components=3, random_seed=7))
    assert {name for name in one if one[name] != other[name]} == {"fit"}


def test_threads_do_not_change_what_a_fit_is(tmp_path):
    def fit_hash(n_threads):
        settings = settings_for(tmp_path, compute=ComputeSettings(omp_nthreads=n_threads))
        (fit,) = find(nodes_of(Plan("cpu", (planned_run(),)), settings), "fit")
        return fit.inputs.get_hashval(hash_method="content")[1]

    assert fit_hash(1) == fit_hash(4)


@pytest.mark.parametrize("sloppy", [True, False])
def test_reports_and_sidecars_are_told_of_sloppy_runs(tmp_path, sloppy):
    settings = settings_for(tmp_path)
    settings = replace(settings, execution=replace(settings.execution, sloppy=sloppy))
    nodes = nodes_of(Plan("cpu", (planned_run(),)), settings)
    (write,), (figures,) = find(nodes, "write"), find(nodes, "figures")
    assert write.inputs.provenance["sloppy"] == figures.inputs.sloppy == sloppy


def test_a_node_is_traced_to_its_runs():
    one, two = (planned_run(run=str(number), group="both") for number in (1, 2))
    other = planned_run("02", run="1")
    plan = Plan("cpu", (one, two, other))
    assert affected("gmvae_wf.sub_01_wf.read_run_1.extract", plan) == [one]
    assert affected("gmvae_wf.sub_01_wf.fit_both.fit", plan) == [one, two]
    assert affected("gmvae_wf.sub_01_wf.write_run_2_msdki.write", plan) == [two]
    assert affected("gmvae_wf.sub_02_wf.read_run_1.mask", plan) == [other]


def test_the_graph_process_never_imports_torch(tmp_path):
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from bids_gmvae.cli import execution, levels, workers
from bids_gmvae.workflows.base import init_gmvae_wf
from bids_gmvae.workflows.plan import Plan
from tests.workflows.test_graphs import nodes_of, planned_run, settings_for
nodes_of(Plan("cpu", (planned_run(),)), settings_for(Path({str(tmp_path)!r})))
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
