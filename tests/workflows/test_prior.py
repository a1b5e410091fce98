"""The graphs of a group's prior, built and expanded without being run."""

from pathlib import Path

import pytest
from nipype.pipeline.engine.utils import generate_expanded_graph

from bids_gmvae.config import ModelSettings
from bids_gmvae.workflows.prior import init_prior_round_wf, init_prior_start_wf


@pytest.fixture
def voxels(tmp_path):
    paths = [tmp_path / f"sub-{number}_voxels.pt" for number in range(5)]
    for path in (*paths, tmp_path / "learning.json"):
        path.touch()
    return paths


def nodes_of(workflow):
    return {node.name: node for node in generate_expanded_graph(workflow._create_flat_graph())}


@pytest.mark.parametrize("n_shards", [1, 2, 5])
def test_every_shard_is_a_node_and_all_meet_in_one(voxels, tmp_path, n_shards):
    shards = [voxels[first::n_shards] for first in range(n_shards)]
    learning = tmp_path / "learning.json"
    workflow = init_prior_round_wf(shards, learning, number=3, base_dir=tmp_path)
    nodes = nodes_of(workflow)
    assert workflow.name == "round_3"
    read = [name for name in nodes if name.startswith("shard_")]
    assert len(read) == n_shards
    given = [Path(path) for name in read for path in nodes[name].inputs.voxels]
    assert sorted(given) == voxels
    assert {nodes[name].inputs.learning for name in (*read, "update")} == {str(learning)}


def test_the_start_depends_on_what_the_prior_is_made_of_only(voxels, tmp_path):
    def digest(settings):
        workflow = init_prior_start_wf(voxels, settings, base_dir=tmp_path)
        (node,) = nodes_of(workflow).values()
        return node.inputs.get_hashval()[1]

    default = digest(ModelSettings())
    assert digest(ModelSettings(posterior_samples=3, min_b=5.0)) == default
    for other in (
        ModelSettings(n_components=4),
        ModelSettings(free_water_anchor=True),
        ModelSettings(random_seed=1),
    ):
        assert digest(other) != default
