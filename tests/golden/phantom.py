"""A small phantom, the statistics of its maps, and how far they may be from those on file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.io.measured import noise_level
from bids_gmvae.simulation.noise import simulate_signals
from bids_gmvae.simulation.tissues import get_population, sample_orientations
from bids_gmvae.voxels import Grid

STATISTICS = Path(__file__).with_name("statistics.tsv")

#: What each signal model is measured with: b-values (s/mm^2), volumes of each, echo times (s).
SHELLS = ((0.0, 3), (1000.0, 10), (2000.0, 10), (3000.0, 10))
DESIGNS = {
    "msdki": (SHELLS, (0.09,)),
    "ball_stick": (SHELLS, (0.09,)),
    "ball_stick_tied": (((0.0, 3), (1000.0, 30)), (0.09,)),
    "ivim": (tuple((b, 6) for b in (0.0, 10.0, 30.0, 60.0, 100.0, 200.0, 400.0, 800.0)), (0.07,)),
    "t2_adc": (((0.0, 3), (500.0, 6), (1000.0, 6)), (0.06, 0.09, 0.14)),
}
ESTIMATORS = ("lsq", "gmvae")
TISSUES = {1: "white", 2: "grey", 3: "fluid"}

#: What identifies a row, what is compared, and what says how.
KEYS = ("signal_model", "estimator", "tissue", "parameter", "map")
VALUES = ("median", "p05", "p95", "rmse")
COLUMNS = (*KEYS, "n_voxels", *VALUES, "tolerance", "reason")

SETTINGS = ModelSettings(n_components=4)

#: Voxels along each axis; a third of them in each tissue.
SHAPE = (12, 10, 6)
S0, SNR = 1000.0, 30.0

#: Signals that are off by 1e-5 move statistics by a thirtieth of this, another noise model by
#: hundreds, another number of components by ten times this.
SHARE_OF_SD = 0.02
OF_SHARE = 0.01

#: Voxels whose fit may fail on one computer but not on another.
FAILING = 2


def make_phantom(name: str) -> tuple[torch.Tensor, Acquisition, torch.Tensor, np.ndarray]:
    """Make noisy signals, their acquisition, the true parameters and tissue labels.

    All randomness is that of torch in double precision, which is the same on every computer.
    """
    population = get_population(name)
    generator = torch.Generator().manual_seed(20)
    shells, times = DESIGNS[name]
    levels, numbers = zip(*shells, strict=True)
    bvals = torch.tensor(levels, dtype=torch.float64).repeat_interleave(torch.tensor(numbers))
    echo_times = torch.tensor(times, dtype=torch.float64).repeat_interleave(len(bvals))
    bvals = bvals.repeat(len(times))
    bvecs = sample_orientations(len(bvals), generator)
    bvecs[bvals == 0] = 0
    acquisition = Acquisition(bvals=bvals, bvecs=bvecs, echo_times=echo_times)
    labels = torch.arange(SHAPE[0]).mul(3).div(SHAPE[0], rounding_mode="floor") + 1
    labels = labels.repeat_interleave(SHAPE[1] * SHAPE[2])
    values = population.sample(labels, generator)
    signals = simulate_signals(
        population.model,
        acquisition,
        values,
        orientation=sample_orientations(len(labels), generator),
        s0=S0,
        sigma=S0 / SNR,
        generator=generator,
    )
    return signals, acquisition, values, labels.numpy()


def statistics(
    names: Iterable[str] = DESIGNS, settings: ModelSettings = SETTINGS, *, rounding: float = 0.0
) -> Iterator[dict[str, object]]:
    """Map phantoms of these signal models, and sum up every map in every tissue: one row each.

    Signals are off by the relative amount ``rounding``, as on a computer that rounds otherwise.
    """
    for name in names:
        signals, acquisition, values, labels = make_phantom(name)
        generator = torch.Generator().manual_seed(1)
        errors = torch.randn(signals.shape, dtype=signals.dtype, generator=generator)
        signals = signals * (1 + rounding * errors)
        mask = np.ones(SHAPE, dtype=bool)
        grid = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0]), 1, 1)
        sigma = noise_level(signals, mask, grid, acquisition, settings)
        run = Measurements(signals, sigma, acquisition)
        model = get_population(name).model
        truth = dict(zip(model.parameters, values.unbind(1), strict=True)) | model.derived(values)
        for estimator in ESTIMATORS:
            posterior = get_estimator(estimator)(model, settings).fit(run).posterior(run)
            maps = {
                (item.parameter, item.statistic): item.values.double().numpy()
                for item in posterior.maps()
            }
            for (parameter, statistic), found in maps.items():
                if (parameter, "std") not in maps:  # it follows from the others
                    continue
                true = truth[parameter].numpy()
                if statistic != "mean":
                    true = np.full_like(true, np.nan)
                for label, tissue in TISSUES.items():
                    own = labels == label
                    sd = float(np.nanmedian(maps[parameter, "std"][own]))
                    keys = (name, estimator, tissue, parameter.name, statistic)
                    yield {
                        **dict(zip(KEYS, keys, strict=True)),
                        **summary(found[own], true[own]),
                        **allowance(statistic, sd),
                    }


def summary(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Sum up a map: medians and the like of the voxels with an estimate."""
    finite = found[np.isfinite(found)]
    p05, median, p95 = np.percentile(finite, [5, 50, 95])
    rmse = np.sqrt(np.nanmean((found - true) ** 2)) if np.isfinite(true).all() else np.nan
    numbers = zip(VALUES, map(float, (median, p05, p95, rmse)), strict=True)
    return {"n_voxels": len(finite), **dict(numbers)}


def allowance(statistic: str, sd: float) -> dict[str, object]:
    """Say how far a statistic may be off."""
    if statistic == "priorinfluence":
        return {"tolerance": OF_SHARE, "reason": "a hundredth of the whole"}
    return {"tolerance": SHARE_OF_SD * sd, "reason": f"{SHARE_OF_SD:.0%} of the posterior sd"}


def differences(found: list[dict[str, object]], expected: list[dict[str, str]]) -> list[str]:
    """Compare rows with those on file: one sentence per statistic that is off."""
    on_file = {tuple(row[key] for key in KEYS): row for row in expected}
    rows = {tuple(str(row[key]) for key in KEYS): row for row in found}
    told = [f"{' '.join(keys)} is only in one table" for keys in on_file.keys() ^ rows.keys()]
    for keys in on_file.keys() & rows.keys():
        row, wanted = rows[keys], on_file[keys]
        if abs(int(str(row["n_voxels"])) - int(wanted["n_voxels"])) > FAILING:
            told.append(f"{' '.join(keys)}: {row['n_voxels']} voxels, not {wanted['n_voxels']}")
        for name in VALUES:
            if wanted[name] == "n/a":
                continue
            value, tolerance = float(str(row[name])), float(wanted["tolerance"])
            if not abs(value - float(wanted[name])) <= tolerance:
                told.append(
                    f"{' '.join(keys)}: {name} is {value:.6g}, not {wanted[name]} "
                    f"within {tolerance:.2g}"
                )
    return sorted(told)
