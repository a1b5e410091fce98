"""Does tissue that the prior has never seen survive?

**Independent voxels.** 1 % of the voxels of an MS-DKI population (see ``msdki``) are a lesion,
one kind at a time: stroke and demyelination, one ``between`` white and grey matter, and a
``faint`` one that differs from grey matter by little more than the noise (K .25 for .6), which no
prior can save.

**Phantom.** A slab of the MNI152 head with 2 mm voxels: partial volume, smooth variation, a
receive bias, and sharp-edged ball-and-stick lesions of 1.6 to 4.4 mm radius in white matter,
strokes and demyelinations.

Rician noise, SNR in white matter; noise level known. ``gmvae`` learns its prior from the very
data, with 10 components. Methods: Rician maximum likelihood (``lsq``); ``gmvae``; ``no broad``:
the same prior with the component for unexpected tissue taken away; ``no broad, K = 3``: a prior
with a component for each tissue and no room for anything else.

Table, by parameter, medians over seeds: ``kept``, the estimated difference between lesion and the
tissue around it over the true one (left out where there is none to speak of); how often 68 % and
95 % intervals hold the truth in the lesion; median ``prior influence`` in the lesion and in the
tissue around it; ``AUC``, how well the map of unexpected tissue separates the lesion from all
other tissue; ``cost``, the error in white and grey matter relative to ``no broad``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.framework import Effort, Record, Table, Task, medians
from benchmarks.samples import SYMBOLS, TISSUES, Sample, estimate, measure, scores
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.gmvae import GMVAE, GMVAEFit
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.phantom import make_phantom
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import DEMYELINATION, STROKE, Tissue, get_population

SHARE = 0.01
#: Differences smaller than this, in spreads of human tissue at large, are no contrast.
MIN_CONTRAST = 0.2
LESION = 4
REFERENCE = "no broad"
VALUES = [
    "kept", "cov68", "cov95", "prior influence", "influence around", "AUC", "cost WM", "cost GM",
]  # fmt: skip


@dataclass(frozen=True)
class Lesion:
    """Tissue beside one of the population's own."""

    tissue: Tissue
    around: str


def _msdki(name: str, diffusivity: float, kurtosis: float, around: str = "WM") -> Lesion:
    return Lesion(Tissue(name, (diffusivity * 1e-3, kurtosis), (5e-5, 0.05)), around)


LESIONS: Mapping[str, Mapping[str, Lesion]] = {
    "msdki_paper": {
        "stroke": _msdki(STROKE, 0.6, 1.2),
        "demyelination": _msdki(DEMYELINATION, 1.0, 0.6),
        "between": _msdki("between", 1.25, 1.25),
    },
    "msdki": {
        "stroke": _msdki(STROKE, 0.5, 1.5),
        "demyelination": _msdki(DEMYELINATION, 1.4, 0.5),
        "between": _msdki("between", 0.95, 0.8),
        "faint": _msdki("faint", 1.0, 0.25, "GM"),
    },
}


def tasks(effort: Effort) -> list[Task]:
    """Take each lesion at the noise levels where it is at stake."""
    if effort.quick:
        cases = [("msdki_paper", "short", 20, "stroke"), ("msdki", "short", 20, "faint")]
        heads = [("ball_stick", "multishell", 20, 1)]
    else:
        levels = {"msdki_paper": [("short", 20)], "msdki": [("hcp", 20), ("short", 20)]}
        cases = [
            (population, scheme, snr, lesion)
            for population, lesions in LESIONS.items()
            for scheme, snr in levels[population]
            for lesion in lesions
        ]
        heads = [
            ("ball_stick", "hcp", 20, 4),
            ("ball_stick", "hcp", 10, 4),
        ]
    seeds = range(effort.n_seeds)
    fields = ("population", "scheme", "snr", "lesion")
    return [
        Task(voxels, dict(zip(fields, case, strict=True)), seed, {"n_voxels": effort.n_voxels})
        for case in cases
        for seed in seeds
    ] + [
        Task(phantom, dict(zip(fields[:3], head[:3], strict=True)), seed, {"n_slices": head[3]})
        for head in heads
        for seed in seeds
    ]


def voxels(
    population: str, scheme: str, snr: float, lesion: str, seed: int, n_voxels: int
) -> Sequence[Record]:
    """Mix a lesion into independent voxels."""
    generator = torch.Generator().manual_seed(seed)
    added = LESIONS[population][lesion]
    tissues = replace(get_population(population), lesions=(added.tissue,))
    weights = torch.tensor([tissue.weight for tissue in tissues.tissues])
    labels = 1 + torch.multinomial(weights, n_voxels, replacement=True, generator=generator)
    labels[: round(SHARE * n_voxels)] = LESION
    values = tissues.sample(labels, generator)
    sample = measure(tissues.model, values, labels, scheme, snr, generator=generator)
    methods = _methods(sample)
    return [
        record
        for name, posterior in methods.items()
        for record in _compare(name, posterior, methods, sample, LESION, TISSUES[added.around])
    ]


def phantom(
    population: str, scheme: str, snr: float, seed: int, n_slices: int
) -> Sequence[Record]:
    """Measure a head with lesions."""
    head = make_phantom(
        get_population(population),
        np.random.default_rng(seed),
        voxel_size=2.0,
        n_slices=n_slices,
        lesions=True,
    )
    acquisition = get_scheme(scheme)
    signals = simulate_signals(
        head.population.model,
        acquisition,
        head.values,
        orientation=head.orientation,
        s0=head.s0,
        sigma=1 / snr,
        generator=torch.Generator().manual_seed(seed),
    )
    run = Measurements(signals, torch.full_like(signals[:, 0], 1 / snr), acquisition)
    labels = torch.from_numpy(head.labels[head.mask].astype(int))
    sample = Sample(head.population.model, run, head.values, labels, head.orientation)
    methods = _methods(sample)
    records = []
    for label, name in ((LESION, "stroke"), (LESION + 1, "demyelination")):
        if not (labels == label).any():
            continue
        for method, posterior in methods.items():
            for record in _compare(method, posterior, methods, sample, label, TISSUES["WM"]):
                records.append({"lesion": name, **record})
    return records


def _methods(sample: Sample) -> dict[str, ParameterPosterior]:
    default, three = (
        GMVAE(sample.model, ModelSettings(n_components=n)).fit(sample.run) for n in (10, 3)
    )
    fits = {
        "gmvae": default,
        REFERENCE: _narrow(default),
        f"{REFERENCE}, K = 3": _narrow(three),
    }
    methods = {"lsq": estimate("lsq", sample)}
    for name, fit in fits.items():
        methods[name] = fit.posterior(sample.run, with_quantiles=True)
    return methods


def _narrow(fit: GMVAEFit) -> GMVAEFit:
    """Take the broad component away."""
    weights = fit.prior.weights.clone()
    weights[-1] = 1e-30
    return replace(fit, prior=replace(fit.prior, weights=weights / weights.sum()))


def _compare(
    method: str,
    posterior: ParameterPosterior,
    methods: Mapping[str, ParameterPosterior],
    sample: Sample,
    label: int,
    around: int,
) -> list[dict[str, Any]]:
    """Look at one kind of lesion, parameter by parameter."""
    lesion, normal = sample.labels == label, sample.labels == around
    groups = {"lesion": label, "WM": TISSUES["WM"], "GM": TISSUES["GM"]}
    own, reference = (
        {(row["parameter"], row["tissue"]): row for row in scores("", estimated, sample, groups)}
        for estimated in (posterior, methods[REFERENCE])
    )
    true = sample.values[lesion].mean(dim=0) - sample.values[normal].mean(dim=0)
    found = posterior.mean[lesion].nanmean(dim=0) - posterior.mean[normal].nanmean(dim=0)
    latent = sample.model.to_real(sample.values)
    contrast = (latent[lesion].mean(dim=0) - latent[normal].mean(dim=0)).abs()
    kept = torch.where(contrast > MIN_CONTRAST, found / true, torch.nan)
    records = []
    for column, parameter in enumerate(sample.model.parameters):
        symbol = SYMBOLS[parameter.name]
        record = {
            "method": method,
            "parameter": symbol,
            "kept": float(kept[column]),
            "cov68": own[symbol, "lesion"]["cov68"],
            "cov95": own[symbol, "lesion"]["cov95"],
        }
        for tissue in ("WM", "GM"):
            ratio = own[symbol, tissue]["rmse"] / reference[symbol, tissue]["rmse"]
            record[f"cost {tissue}"] = ratio
        if posterior.prior_influence is not None:
            influence = posterior.prior_influence[:, column]
            record["prior influence"] = float(influence[lesion].nanmedian())
            record["influence around"] = float(influence[normal].nanmedian())
        if method == "gmvae" and posterior.unexpected is not None:
            record["AUC"] = _auc(posterior.unexpected, lesion, sample.labels < LESION)
        records.append(record)
    return records


def _auc(score: Tensor, positive: Tensor, negative: Tensor) -> float:
    """Give the chance that a positive voxel scores higher than a negative one."""
    other = score[negative].sort().values
    mine = score[positive].contiguous()
    below = torch.searchsorted(other, mine, right=False)
    not_above = torch.searchsorted(other, mine, right=True)
    return float((below + not_above).double().mean() / (2 * len(other)))


def summarise(records: Sequence[Record]) -> Table:
    """Take medians over seeds."""
    index = ["population", "scheme", "snr", "lesion", "parameter", "method"]
    rows = medians(records, index, VALUES)
    return Table.of(sorted(rows, key=lambda row: [str(row[name]) for name in index[:5]]))


def draw(table: Table, figure: Figure) -> None:
    """Draw how much contrast each method keeps."""
    axes = figure.subplots()
    methods = list(dict.fromkeys(row["method"] for row in table.rows))
    keys = ["population", "scheme", "snr", "lesion", "parameter"]
    rows = [row for row in table.rows if row["kept"] is not None]
    cases = list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))
    for method in methods:
        own = {
            tuple(row[key] for key in keys): row["kept"] for row in rows if row["method"] == method
        }
        axes.plot([own[case] for case in cases], "o", label=method, markersize=4)
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    labels = [" ".join(map(str, case)) for case in cases]
    axes.set_xticks(range(len(cases)), labels, rotation=90, fontsize=6)
    axes.set(ylabel="contrast kept", ylim=(0, 1.6))
    axes.legend(fontsize=7)
