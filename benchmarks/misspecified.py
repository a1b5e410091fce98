"""What happens when the assumptions fail?

``continuum``: an MS-DKI population that is no mixture of a few normals: white matter along a
skewed arc, and 15 % of voxels with a share of cerebrospinal fluid anywhere between 0 and 1
(``PV``). Errors relative to the Bayes-optimal ones, whose prior is a mixture of 20 normals fitted
to 50,000 noiseless voxels of the very population.

``three tissues``: the population of ``msdki``; 10 components relative to the 3 that are true.

All others: the same voxels with an assumption broken, errors relative to those of the same method
while it holds. ``crossing``: two fibre bundles at 60 degrees in 30 % of white matter (shown
apart, as ``XF``), whose true fraction is that of both. ``4 coils``: root sum of squares of four
coils with equal sensitivity and independent noise (non-central chi). ``sigma``: the noise level
that the estimators are given is wrong by so many per cent.

Table, medians over seeds: root mean square error and bias (diffusivities in um^2/ms), the ratio,
how often 68 % and 95 % intervals hold the truth, and the median residual over the noise, which
tells the user that something is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.framework import Effort, Record, Table, Task, medians, product
from benchmarks.oracles import TruePrior, bayes_optimal
from benchmarks.samples import TISSUES, Sample, draw_sample, estimate, measure, relative, scores
from bids_gmvae.simulation.noise import add_rician_noise
from bids_gmvae.simulation.tissues import get_population, sample_orientations

ORACLE = "Bayes-optimal"
N_COILS = 4
CROSSING_ANGLE, CROSSING_SHARE = 60.0, 0.3
#: Labels beyond those of `TISSUES`.
MIXED, CROSSED = 4, 5
GROUPS = {**TISSUES, "PV": MIXED, "XF": CROSSED}
VALUES = ["rmse", "bias", "ratio", "cov68", "cov95", "residual"]


def tasks(effort: Effort) -> list[Task]:
    """List the assumptions, with the conditions where they matter."""
    cases: list[tuple[Any, ...]] = [
        (continuum, "continuum", "msdki", "short", 20),
        (continuum, "continuum", "msdki", "hcp", 50),
        (three_tissues, "three tissues", "msdki", "short", 20),
        (three_tissues, "three tissues", "msdki", "hcp", 50),
        (broken, "sigma +20", "msdki", "short", 20),
        (broken, "sigma -20", "msdki", "short", 20),
        (broken, "sigma +2", "ball_stick", "hcp", 10),
        (broken, "sigma -2", "ball_stick", "hcp", 10),
        (broken, "4 coils", "msdki", "hcp", 20),
        (broken, "4 coils", "ball_stick", "hcp", 20),
        (broken, "crossing", "ball_stick", "hcp", 20),
    ]
    if effort.quick:
        cases = [cases[0], cases[4], cases[10]]
    return [
        task
        for function, problem, population, scheme, snr in cases
        for task in product(
            function,
            effort,
            problem=(problem,),
            population=(population,),
            scheme=(scheme,),
            snr=(snr,),
        )
    ]


def continuum(
    problem: str, population: str, scheme: str, snr: float, seed: int, n_voxels: int
) -> Sequence[Record]:
    """Compare numbers of components with the optimum."""
    generator = torch.Generator().manual_seed(seed)
    model = get_population(population).model
    values, labels = draw_continuum(n_voxels, generator)
    sample = measure(model, values, labels, scheme, snr, generator=generator)
    prior = fit_prior(model.to_real(draw_continuum(50_000, generator)[0]))
    scored = _score(ORACLE, bayes_optimal(sample.run, model, prior), sample)
    scored += _score("lsq", estimate("lsq", sample), sample)
    for n in (1, 3, 6, 10):
        scored += _score(f"gmvae K = {n}", estimate("gmvae", sample, n_components=n), sample)
    return relative(scored, ORACLE)


def draw_continuum(n_voxels: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw D (mm^2/s) and K, and labels: 45 % WM, 30 % GM, 10 % CSF, 15 % partial volume."""

    def normal() -> Tensor:
        return torch.randn(n_voxels, 2, generator=generator, dtype=torch.float64)

    along = 0.15 * (normal().square().sum(dim=1) / 2)  # exponential, hence skewed
    arc = torch.stack([0.75 + along, 1.15 - 0.6 * along - 0.6 * along**2], dim=1)
    white = arc + 0.05 * normal()
    grey = torch.tensor([1.0, 0.6]) + 0.1 * normal()
    fluid = torch.tensor([3.0, 0.0]) + 0.05 * normal()
    share = torch.rand(n_voxels, 1, generator=generator, dtype=torch.float64)
    mixed = share * fluid + (1 - share) * grey
    weights = torch.tensor([0.45, 0.30, 0.10, 0.15])
    labels = 1 + torch.multinomial(weights, n_voxels, replacement=True, generator=generator)
    rows = torch.arange(n_voxels)
    values = torch.stack([white, grey, fluid, mixed])[labels - 1, rows]
    return values * torch.tensor([1e-3, 1.0]), labels


def fit_prior(latents: Tensor, n_components: int = 20) -> TruePrior:
    """Describe a population by a mixture of normals, by maximum likelihood."""
    from sklearn.mixture import GaussianMixture

    fitted = GaussianMixture(n_components, random_state=0).fit(latents.numpy())
    found = (fitted.weights_, fitted.means_, fitted.covariances_)
    return TruePrior(*(torch.from_numpy(item) for item in found))


def three_tissues(
    problem: str, population: str, scheme: str, snr: float, seed: int, n_voxels: int
) -> Sequence[Record]:
    """Compare more components than there are tissues with as many."""
    sample = draw_sample(population, scheme, snr, n_voxels=n_voxels, seed=seed)
    scored = [
        row
        for n in (3, 10)
        for row in _score(f"gmvae K = {n}", estimate("gmvae", sample, n_components=n), sample)
    ]
    return relative(scored, "gmvae K = 3")


def broken(
    problem: str, population: str, scheme: str, snr: float, seed: int, n_voxels: int
) -> Sequence[Record]:
    """Compare the same voxels with and without an assumption broken."""
    sample = draw_sample(population, scheme, snr, n_voxels=n_voxels, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1000)
    if problem == "crossing":
        crossed = torch.rand(n_voxels, generator=generator) < CROSSING_SHARE
        crossed &= sample.labels == TISSUES["WM"]
        sample = replace(sample, labels=torch.where(crossed, CROSSED, sample.labels))
    changed = _break(problem, sample, generator)
    records = []
    for method in ("lsq", "gmvae"):
        scored = _score("right", estimate(method, sample), sample)
        scored += _score(method, estimate(method, changed), changed)
        records += [row for row in relative(scored, "right") if row["method"] == method]
    return records


def _break(problem: str, sample: Sample, generator: torch.Generator) -> Sample:
    run, model = sample.run, sample.model
    if problem.startswith("sigma"):
        factor = 1 + float(problem.removeprefix("sigma")) / 100
        return replace(sample, run=replace(run, sigma=factor * run.sigma))
    fibre = sample.orientation if model.directional else None
    signals = model(sample.values, run.acquisition, fibre)
    if problem == "crossing":
        second = model(sample.values, run.acquisition, _tilted(sample.orientation, generator))
        crossed = (sample.labels == CROSSED)[:, None]
        noisy = add_rician_noise((signals + second) / 2, run.sigma, generator)
        return replace(sample, run=replace(run, signals=torch.where(crossed, noisy, run.signals)))
    coils = [
        add_rician_noise(signals / N_COILS**0.5, run.sigma, generator) for _ in range(N_COILS)
    ]
    return replace(sample, run=replace(run, signals=torch.stack(coils).square().sum(dim=0).sqrt()))


def _tilted(orientation: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each fibre by the crossing angle, to any side."""
    other = torch.linalg.cross(orientation, sample_orientations(len(orientation), generator))
    other = other / other.norm(dim=1, keepdim=True)
    angle = torch.deg2rad(torch.tensor(CROSSING_ANGLE, dtype=torch.float64))
    return torch.cos(angle) * orientation + torch.sin(angle) * other


def _score(method: str, estimated: Any, sample: Sample) -> list[dict[str, Any]]:
    """Score tissues that are there, with their residuals."""
    groups: Mapping[str, int] = {
        name: label for name, label in GROUPS.items() if (sample.labels == label).any()
    }
    scored = scores(method, estimated, sample, groups)
    residual = getattr(estimated, "residual", torch.full_like(sample.values[:, 0], torch.nan))
    for row in scored:
        row["residual"] = float(residual[sample.labels == groups[row["tissue"]]].nanmedian())
    return scored


def summarise(records: Sequence[Record]) -> Table:
    """Take medians over seeds."""
    index = ["problem", "population", "scheme", "snr", "tissue", "parameter", "method"]
    rows = medians(records, index, VALUES)
    return Table.of(sorted(rows, key=lambda row: [str(row[name]) for name in index[:6]]))


def draw(table: Table, figure: Figure) -> None:
    """Draw the ratio of errors in every problem."""
    axes = figure.subplots()
    keys = ["problem", "population", "scheme", "snr"]
    cases = list(dict.fromkeys(tuple(row[key] for key in keys) for row in table.rows))
    tissues = list(dict.fromkeys(row["tissue"] for row in table.rows))
    for place, case in enumerate(cases):
        for row in table.where(**dict(zip(keys, case, strict=True))):
            if row["method"] in ("gmvae", "gmvae K = 10"):
                number = tissues.index(row["tissue"])
                axes.plot(
                    place + 0.1 * number, row["ratio"], "o", color=f"C{number}", markersize=4
                )
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    for number, tissue in enumerate(tissues):
        axes.plot([], [], "o", color=f"C{number}", label=tissue)
    axes.set_xticks(range(len(cases)), ["\n".join(map(str, case)) for case in cases], fontsize=6)
    axes.set(ylabel="RMSE of gmvae, relative to the reference", yscale="log")
    axes.legend(fontsize=7)
