"""One prior for a study: a small region mapped under it, and under a prior of its own.

20 participants with 2,000 voxels each are simulated from the populations `msdki` (protocol
``short``, 32 volumes) and `ball_stick` (``hcp``, 288 volumes). Tissues are the same in all of
them, but how much of each there is differs: weights are drawn from a Dirichlet distribution around
those of the population (`CONCENTRATION`; white matter then makes up 28 to 72 % in nine of ten).
Their voxels are learnt from as `group --learn-prior` does, in one, four and twenty shards.

Then ten scans of 200 voxels, a region of interest each, of ten further participants are mapped:
``own prior`` learns it from the 200 voxels, ``group prior`` takes that of the 20 (`--prior-from`),
``lsq`` takes none. Bayes-optimal estimates know the tissues and each participant's own weights;
no estimator can. The noise level is known.

Table: root mean square error over all scans, medians over seeds, and its ratio to the
Bayes-optimal one; ``shards`` is the largest difference between the priors of one, four and
twenty shards, over all their numbers (first seed).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.framework import Effort, Record, Table, Task, medians, product
from benchmarks.oracles import Estimate, TruePrior, bayes_optimal
from benchmarks.samples import (
    Estimated,
    Sample,
    draw_ratios,
    estimate,
    measure,
    relative,
    scores,
    side_by_side,
)
from benchmarks.sampling import bayes_by_sampling
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.group.prior import Learning, contributions, start
from bids_gmvae.io.training import write_training
from bids_gmvae.simulation.tissues import get_population

SCHEMES = {"msdki": "short", "ball_stick": "hcp"}
N_PARTICIPANTS, N_VOXELS, N_REGION = 20, 2_000, 200
#: Of the Dirichlet distribution of weights.
CONCENTRATION = 12.0
SHARDS = (1, 4, 20)
ORACLE = "Bayes-optimal"


def tasks(effort: Effort) -> list[Task]:
    """Cross models and noise levels."""
    return product(
        compare,
        effort,
        settings={"n_regions": 2 if effort.quick else 10},
        model=("msdki",) if effort.quick else tuple(SCHEMES),
        snr=(20,) if effort.quick else (10, 20),
    )


def compare(model: str, snr: float, seed: int, n_regions: int) -> Sequence[Record]:
    """Learn a prior from participants, and map regions of others with and without it."""
    generator = torch.Generator().manual_seed(seed)
    regions: list[Sample] = []
    found: dict[str, list[Estimated]] = {}
    with tempfile.TemporaryDirectory() as folder:
        voxels = [
            participant(Path(folder) / f"sub-{number:02}_voxels.pt", model, snr, generator)
            for number in range(N_PARTICIPANTS)
        ]
        # That shards change nothing needs no seeds.
        priors = [learn(voxels, n_shards) for n_shards in SHARDS[: None if seed == 0 else 1]]
        path = priors[0].write(Path(folder) / "prior.json")
        for _ in range(n_regions):
            weights = draw_weights(model, generator)
            regions.append(draw_participant(model, snr, weights, N_REGION, generator))
            for name, estimated in estimates(regions[-1], weights, path, generator):
                found.setdefault(name, []).append(estimated)
    every = pooled(regions)
    rows = [row for name, parts in found.items() for row in scores(name, joined(parts), every)]
    shards = [difference(priors[0], other) for other in priors[1:]]
    told = {"shards": max(shards)} if shards else {}
    return [{**row, **told} for row in relative(rows, ORACLE)]


def participant(path: Path, model: str, snr: float, generator: torch.Generator) -> Path:
    """Write what a participant's run leaves to learn from."""
    weights = draw_weights(model, generator)
    sample = draw_participant(model, snr, weights, N_VOXELS, generator)
    return write_training(path, Problem.of(sample.run, sample.model, ModelSettings()))


def draw_weights(model: str, generator: torch.Generator) -> Tensor:
    """Draw how much of each tissue a participant has, (n_tissues,)."""
    tissues = get_population(model).tissues
    mean = torch.tensor([tissue.weight for tissue in tissues], dtype=torch.float64)
    shares = torch._standard_gamma(CONCENTRATION * mean, generator)
    return shares / shares.sum()


def draw_participant(
    model: str, snr: float, weights: Tensor, n_voxels: int, generator: torch.Generator
) -> Sample:
    """Measure voxels of one participant."""
    population = get_population(model)
    labels = 1 + torch.multinomial(weights, n_voxels, replacement=True, generator=generator)
    values = population.sample(labels, generator)
    return measure(population.model, values, labels, SCHEMES[model], snr, generator=generator)


def learn(voxels: Sequence[Path], n_shards: int) -> Learning:
    """Learn as ``group --learn-prior`` does, in so many shards."""
    learning = start(voxels, ModelSettings())
    while not learning.finished:
        sums = [contributions(voxels[first::n_shards], learning) for first in range(n_shards)]
        learning = learning.after({name: item for part in sums for name, item in part.items()})
    return learning


def difference(one: Learning, other: Learning) -> float:
    """Give the largest difference between two priors."""
    pairs = zip(vars(one.prior).values(), vars(other.prior).values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def estimates(
    region: Sample, weights: Tensor, prior: Path, generator: torch.Generator
) -> Iterator[tuple[str, Estimated]]:
    """Map a region by all methods."""
    truth = replace(TruePrior.of(get_population(region.model.name)), weights=weights)
    yield "lsq", estimate("lsq", region)
    yield "own prior", estimate("gmvae", region)
    yield "group prior", estimate("gmvae", region, prior_from=prior)
    if region.model.directional:
        yield ORACLE, bayes_by_sampling(region.run, region.model, truth, generator=generator)
    else:
        yield ORACLE, bayes_optimal(region.run, region.model, truth)


def pooled(samples: Sequence[Sample]) -> Sample:
    """Put the voxels of all regions together."""
    first = samples[0]
    signals, sigma, values, labels, orientation = (
        torch.cat(parts)
        for parts in zip(
            *((s.run.signals, s.run.sigma, s.values, s.labels, s.orientation) for s in samples),
            strict=True,
        )
    )
    run = Measurements(signals, sigma, first.run.acquisition)
    return Sample(first.model, run, values, labels, orientation)


def joined(parts: Sequence[Estimated]) -> Estimate:
    """Put the estimates of all regions together."""
    return Estimate(torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts]))


def summarise(records: Sequence[Record]) -> Table:
    """Show errors and ratios side by side, and what sharding changes."""
    told = medians(records, ["model", "snr", "method"], ["shards"])
    rows = side_by_side(records, ["model", "snr"])
    return Table.of([row | item for row, item in zip(rows, told, strict=True)])


def draw(table: Table, figure: Figure) -> None:
    """Draw the ratios over SNR."""
    draw_ratios(table, figure, ["model"])
