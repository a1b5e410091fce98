"""One prior of many participants, against all voxels at once and against what is optimal."""

import random
from dataclasses import replace

import pytest
import torch

from bids_gmvae.config import ModelSettings, SelectionSettings
from bids_gmvae.estimators import Measurements, get_estimator
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.saved_prior import read_prior
from bids_gmvae.exceptions import InputError, NothingEligibleError
from bids_gmvae.group.prior import (
    Learning,
    contributions,
    find_tasks,
    load_contributions,
    save_contributions,
    start,
    write_group_prior,
)
from bids_gmvae.io.training import read_training, write_training
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import get_population

SETTINGS = ModelSettings(n_components=3)
N_PARTICIPANTS = 5


def scan(weights, n_voxels, seed):
    """Measure voxels of the three tissues, in given shares, at SNR 10; with the truth."""
    generator = torch.Generator().manual_seed(seed)
    population = get_population("msdki")
    labels = 1 + torch.multinomial(
        torch.tensor(weights), n_voxels, replacement=True, generator=generator
    )
    values = population.sample(labels, generator)
    acquisition = get_scheme("short")
    signals = simulate_signals(
        population.model, acquisition, values, sigma=0.1, generator=generator
    )
    return Measurements(signals, torch.full((n_voxels,), 0.1).double(), acquisition), values


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory):
    """What participants leave, who have different shares of the same tissues."""
    root = tmp_path_factory.mktemp("out")
    for number in range(N_PARTICIPANTS):
        run, _ = scan([0.3 + 0.1 * number, 0.7 - 0.1 * number, 0.1], 300, number)
        path = root / f"sub-{number}/dwi/sub-{number}_model-msdki_desc-training_voxels.pt"
        write_training(path, Problem.of(run, get_population("msdki").model, SETTINGS))
    return root


@pytest.fixture(scope="module")
def task(out_dir):
    (only,) = find_tasks(out_dir, SelectionSettings(), SETTINGS)
    return only


@pytest.fixture(scope="module")
def first(task):
    return start(task.voxels, SETTINGS)


def advance(learning, voxels, n_shards, folder):
    """Take one round, with sums that go through files as between jobs."""
    paths = []
    for shard in range(n_shards):
        paths.append(folder / f"{shard}.pt")
        save_contributions(contributions(voxels[shard::n_shards], learning), paths[-1])
    return learning.after(load_contributions(paths))


def learn(learning, voxels, n_shards, folder):
    while not learning.finished:
        learning = advance(learning, voxels, n_shards, folder)
    return learning


def assert_same_prior(one, other, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    for name, tensor in vars(one.prior).items():
        torch.testing.assert_close(tensor, getattr(other.prior, name), **tolerance)


@pytest.fixture(scope="module")
def learnt(first, task, tmp_path_factory):
    return learn(first, task.voxels, 1, tmp_path_factory.mktemp("sums"))


@pytest.mark.parametrize("n_shards", [2, N_PARTICIPANTS])
def test_shards_and_their_order_change_nothing(first, task, learnt, n_shards, tmp_path):
    voxels = random.Random(n_shards).sample(task.voxels, N_PARTICIPANTS)
    assert_same_prior(learn(first, voxels, n_shards, tmp_path), learnt)
    assert_same_prior(start(voxels, SETTINGS), first)


def test_a_round_is_that_of_all_voxels_at_once(first, task, tmp_path):
    parts = [read_training(path) for path in task.voxels]
    everything = replace(
        parts[0],
        data=torch.cat([part.data for part in parts]),
        sigma=torch.cat([part.sigma for part in parts]),
    )
    at_once = first.after(contributions([write_training(tmp_path / "a.pt", everything)], first))
    in_shards = advance(first, task.voxels, N_PARTICIPANTS, tmp_path)
    assert_same_prior(in_shards, at_once, rtol=1e-9, atol=1e-9)
    assert in_shards.history == pytest.approx(at_once.history, rel=1e-12)
    assert in_shards.n_voxels == N_PARTICIPANTS * 300


def test_what_was_interrupted_goes_on_as_if_it_had_not_been(first, task, learnt, tmp_path):
    learning = first
    while not learning.finished:
        learning = advance(learning, task.voxels, 1, tmp_path)
        learning = Learning.read(learning.write(tmp_path / "learning.json"))
    assert_same_prior(learning, learnt)
    assert learning.history == learnt.history


def test_every_round_raises_the_evidence_from_wherever_it_starts(first, task, learnt, tmp_path):
    equal = torch.full_like(first.prior.weights, 1 / len(first.prior.weights))
    far = replace(first, prior=replace(first.prior, weights=equal))
    for _ in range(4):
        far = advance(far, task.voxels, 2, tmp_path)
    gains = torch.tensor(far.history, dtype=torch.float64).diff()
    assert (gains > 0).all()
    assert learnt.history[-1] - 0.02 < far.history[-1] < learnt.history[-1] + 1e-3


def test_a_region_is_mapped_better_under_it_than_under_a_prior_of_its_own(learnt, tmp_path):
    path = learnt.write(tmp_path / "prior.json")
    model = get_population("msdki").model
    error = {}
    for name, settings in (
        ("own", ModelSettings()),
        ("group", ModelSettings(prior_from=path)),
    ):
        squares = []
        for seed in (101, 102, 103):
            run, values = scan([0.5, 0.5, 0.0], 200, seed)
            mean = get_estimator("gmvae")(model, settings).fit(run).posterior(run).mean
            squares.append((mean / values.mean(0) - values / values.mean(0)).square())
        error[name] = float(torch.cat(squares).mean().sqrt())
    assert error["group"] < 0.97 * error["own"]


def test_the_written_prior_says_where_it_comes_from(task, learnt, out_dir):
    path = write_group_prior(task, learnt, out_dir)
    prior, content = read_prior(path)
    assert path.name == "group_model-msdki_desc-gmvae_prior.json"
    assert content["Participants"] == content["Runs"] == N_PARTICIPANTS
    assert content["Voxels"] == N_PARTICIPANTS * 300
    assert content["Evidence"] == list(learnt.history)
    assert content["Sources"][0] == "bids::sub-0/dwi/" + task.voxels[0].name
    diffusivities = [item["diffusivity"] for item in content["Components"]]
    assert diffusivities == sorted(diffusivities)
    assert torch.equal(prior.weights.sort().values, learnt.prior.weights.sort().values)


def test_participants_can_be_selected(out_dir, task):
    (some,) = find_tasks(out_dir, SelectionSettings(participant_label=("1", "3")), SETTINGS)
    assert [path.name[:5] for path in some.voxels] == ["sub-1", "sub-3"]
    assert some.digest != task.digest
    with pytest.raises(InputError, match="is found of sub-7"):
        find_tasks(out_dir, SelectionSettings(participant_label=("1", "7")), SETTINGS)
    with pytest.raises(NothingEligibleError, match="left after selection"):
        find_tasks(out_dir, SelectionSettings(session_label=("1",)), SETTINGS)
    with pytest.raises(NothingEligibleError, match="Nothing to learn a prior from is found in"):
        find_tasks(out_dir / "sub-1" / "dwi", SelectionSettings(), SETTINGS)


def test_other_settings_or_voxels_are_another_task(out_dir, task):
    (other,) = find_tasks(out_dir, SelectionSettings(), replace(SETTINGS, random_seed=1))
    assert other.digest != task.digest
    (same,) = find_tasks(out_dir, SelectionSettings(), replace(SETTINGS, posterior_samples=1))
    assert same.digest == task.digest
