"""How long fits take, beside other software, on the same voxels in the same run.

Ball-stick and MS-DKI are fitted to simulated brain voxels (white matter, grey matter,
cerebrospinal fluid; SNR 20) of the HCP protocol, 18 b0 + 90 volumes at each of 1000, 2000 and
3000 s/mm^2, on one core. Times are CPU seconds for 10,000 voxels; slow methods get fewer voxels
and their times are scaled. What is compiled was compiled before.

Ball-stick is compared with a loop of ``scipy.optimize.least_squares`` over voxels, which gets the
analytic Jacobian and starts from a diffusion tensor, and with dmipy-fit (brute2fine) if installed;
MS-DKI with dipy's ``MeanDiffusionKurtosisModel``. ``torch`` is the same estimator without
compiled code. ``gmvae`` is apart for learning the prior (``fit``, once per run, on at most 8,000
voxels, 4,000 for ball-stick) and for applying it (``posterior``, each voxel); both with ``newton``
recognition.

A second part shows how the time of Rician ``lsq`` grows with voxels, measurements and threads;
there it is the time on the clock.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.framework import Effort, Record, Table, Task, medians, product
from benchmarks.samples import Sample, draw_sample
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.problem import Problem

#: Times are compared, so tasks must not disturb each other.
ALONE = True
#: Times are given for so many voxels.
N_STANDARD = 10_000
SNR = 20
REFERENCES = {"ball_stick": "SciPy loop", "msdki": "dipy"}


def tasks(effort: Effort) -> list[Task]:
    """Compare methods by model; vary voxels, measurements and threads."""
    n = effort.n_voxels
    return [
        *product(compare, effort, model=("ball_stick", "msdki")),
        *product(scale, effort, model=("ball_stick", "msdki"), scheme=("short", "hcp"),
                 voxels=(n // 4, n), threads=(1,), settings={}),
        *product(scale, effort, model=("ball_stick",), scheme=("hcp",),
                 voxels=(4 * n,), threads=(1, 2), settings={}),
    ]  # fmt: skip


def compare(model: str, seed: int, n_voxels: int) -> Sequence[Record]:
    """Time all methods on the same voxels."""
    sample = draw_sample(model, "hcp", SNR, n_voxels=n_voxels, seed=seed)
    fit = _estimator(sample, "gmvae").fit(_first(sample, 500).run)
    fit.posterior(_first(sample, 500).run)
    fewer, fewest = n_voxels // 10, n_voxels // 50
    lsq, likelihood = _lsq("gaussian"), _lsq("rician")
    own: dict[str, tuple[Callable[[Sample], Any], int]] = {
        "lsq gaussian": (lsq, n_voxels),
        "lsq rician": (likelihood, n_voxels),
        "lsq gaussian, torch": (_interpreted(lsq), fewer),
        "lsq rician, torch": (_interpreted(likelihood), fewer),
        "gmvae fit": (lambda part: _estimator(part, "gmvae").fit(part.run), n_voxels),
        "gmvae posterior": (lambda part: fit.posterior(part.run), n_voxels),
    }
    others: dict[str, dict[str, tuple[Callable[[Sample], Any], int]]] = {
        "ball_stick": {"SciPy loop": (_scipy, fewest), "dmipy": (_dmipy, fewest)},
        "msdki": {"dipy": (_dipy, n_voxels)},
    }
    records = []
    for method, (function, n) in {**others[model], **own}.items():
        part = _first(sample, n)
        if method.startswith("lsq"):
            function(_first(sample, 300))
        start = time.process_time()
        done = function(part)
        seconds = (time.process_time() - start) * N_STANDARD / len(part.run)
        records.append({"method": method, "seconds": seconds if done is not None else None})
    return records


def scale(model: str, scheme: str, voxels: int, threads: int, seed: int) -> Sequence[Record]:
    """Time Rician maximum likelihood on the clock."""
    sample = draw_sample(model, scheme, SNR, n_voxels=voxels, seed=seed)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fit = _lsq("rician")
        fit(_first(sample, 300))
        start = time.perf_counter()
        fit(sample)
        seconds = time.perf_counter() - start
    finally:
        torch.set_num_threads(before)
    return [{"method": "lsq rician", "volumes": len(sample.run.acquisition), "clock": seconds}]


def summarise(records: Sequence[Record]) -> Table:
    """Give times and ratios to the reference; then how times grow."""
    timed = [record for record in records if record.get("seconds") is not None]
    rows = medians(timed, ["model", "method"], ["seconds"])
    for row in rows:
        reference = [
            other["seconds"]
            for other in rows
            if (other["model"], other["method"]) == (row["model"], REFERENCES[row["model"]])
        ]
        row["times faster"] = reference[0] / row["seconds"]
    missing = [record for record in records if "seconds" in record and record["seconds"] is None]
    rows += medians(missing, ["model", "method"], [])
    growth = [record for record in records if "clock" in record]
    by = ["model", "method", "volumes", "voxels", "threads"]
    return Table.of([*rows, *medians(growth, by, ["clock"])])


def draw(table: Table, figure: Figure) -> None:
    """Draw seconds by method, on a logarithmic scale."""
    panels = figure.subplots(1, len(REFERENCES))
    for axes, model in zip(panels, REFERENCES, strict=True):
        rows = [row for row in table.where(model=model) if row.get("seconds")]
        axes.barh([row["method"] for row in rows], [row["seconds"] for row in rows])
        axes.set(xscale="log", title=model, xlabel="CPU s per 10,000 voxels x 288")
        axes.invert_yaxis()


def _first(sample: Sample, n: int) -> Sample:
    return replace(sample, run=sample.run.select(slice(0, n)))


def _estimator(sample: Sample, name: str, noise_model: str = "rician") -> Any:
    return get_estimator(name)(sample.model, ModelSettings(noise_model=noise_model))


def _lsq(noise_model: str) -> Callable[[Sample], Any]:
    def fit(sample: Sample) -> Any:
        return _estimator(sample, "lsq", noise_model).fit(sample.run).posterior(sample.run)

    return fit


def _interpreted(function: Callable[[Sample], Any]) -> Callable[[Sample], Any]:
    def call(sample: Sample) -> Any:
        with patch.object(Problem, "is_compiled", False):
            return function(sample)

    return call


def _scipy(sample: Sample) -> NDArray[np.float64]:
    """Fit (S0, f, Dpar, Diso, theta, phi) voxel by voxel; diffusivities in um^2/ms."""
    signals = sample.run.signals.numpy()
    bvals, bvecs = sample.run.acquisition.bvals.numpy() / 1e3, sample.run.acquisition.bvecs.numpy()

    def predict(p: NDArray[np.float64]) -> tuple[Any, ...]:
        sine, cosine = np.sin(p[4:]), np.cos(p[4:])
        along = bvecs @ [sine[0] * cosine[1], sine[0] * sine[1], cosine[0]]
        stick, ball = np.exp(-bvals * p[2] * along**2), np.exp(-bvals * p[3])
        return sine, cosine, along, stick, ball

    def residual(p: NDArray[np.float64], data: NDArray[np.float64]) -> NDArray[np.float64]:
        *_, stick, ball = predict(p)
        return np.asarray(p[0] * (p[1] * stick + (1 - p[1]) * ball) - data)

    def jacobian(p: NDArray[np.float64], data: NDArray[np.float64]) -> NDArray[np.float64]:
        sine, cosine, along, stick, ball = predict(p)
        turn = -2 * p[0] * p[1] * bvals * p[2] * along * stick
        by_theta = bvecs @ [cosine[0] * cosine[1], cosine[0] * sine[1], -sine[0]]
        by_phi = bvecs @ [-sine[0] * sine[1], sine[0] * cosine[1], 0.0]
        return np.stack([
            p[1] * stick + (1 - p[1]) * ball, p[0] * (stick - ball),
            -p[0] * p[1] * bvals * along**2 * stick, -p[0] * (1 - p[1]) * bvals * ball,
            turn * by_theta, turn * by_phi,
        ], axis=1)  # fmt: skip

    x, y, z = bvecs.T
    forms = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=1)
    design = np.column_stack([np.ones_like(bvals), -bvals[:, None] * forms])
    logarithms = np.log(np.maximum(signals, 1e-3)) @ np.linalg.pinv(design).T
    tensors = logarithms[:, [1, 4, 5, 4, 2, 6, 5, 6, 3]].reshape(-1, 3, 3)
    axis = np.linalg.eigh(tensors)[1][:, :, 2]
    bounds = ([0, 0, 0.1, 0.1, -np.inf, -np.inf], [np.inf, 1, 3.5, 3.5, np.inf, np.inf])
    found = []
    for data, level, n in zip(signals, signals[:, bvals == 0].mean(axis=1), axis, strict=True):
        angles = [np.arccos(np.clip(n[2], -1, 1)), np.arctan2(n[1], n[0])]
        start = [level, 0.5, 1.7, 1.0, *angles]
        found.append(least_squares(residual, start, jac=jacobian, bounds=bounds, args=(data,)).x)
    return np.array(found)


def _dmipy(sample: Sample) -> Any:
    """Fit with dmipy-fit, or its ancestor, in SI units; None if neither is installed."""
    for package in ("dmipy_fit", "dmipy"):
        if importlib.util.find_spec(package) is not None:
            break
    else:
        return None
    framework = importlib.import_module(f"{package}.core.modeling_framework")
    schemes = importlib.import_module(f"{package}.core.acquisition_scheme")
    sticks = importlib.import_module(f"{package}.signal_models.cylinder_models")
    balls = importlib.import_module(f"{package}.signal_models.gaussian_models")
    acquisition = sample.run.acquisition
    scheme = schemes.acquisition_scheme_from_bvalues(
        acquisition.bvals.numpy() * 1e6, acquisition.bvecs.numpy()
    )
    model = framework.MultiCompartmentModel(models=[sticks.C1Stick(), balls.G1Ball()])
    return model.fit(scheme, sample.run.signals.numpy(), solver="brute2fine")


def _dipy(sample: Sample) -> NDArray[np.float64]:
    """Fit with dipy."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.msdki import MeanDiffusionKurtosisModel

    acquisition = sample.run.acquisition
    table = gradient_table(acquisition.bvals.numpy(), bvecs=acquisition.bvecs.numpy())
    return np.asarray(
        MeanDiffusionKurtosisModel(table).fit(sample.run.signals.numpy()).model_params
    )
