"""Real data: do two halves of one scan agree, and are residuals as large as the noise?

**Data.** One slice of a brain with one b0 and 15 shells of 33 directions (b = 200 to 3000 s/mm^2;
Hansen and Jespersen 2016, https://doi.org/10.1038/sdata.2016.72), in the folder
``$GMVAE_TEST_DATA/01_cfin_multishell_brain``. It is no part of this repository; without it the
benchmark is skipped. White matter (fractional anisotropy > 0.35), grey matter (< 0.2) and
cerebrospinal fluid (mean diffusivity > 1.6 um^2/ms) are told by a tensor that dipy fits to all
volumes with b <= 1000 s/mm^2, not by the estimators.

**Halves.** The directions of every shell are split in two so that the axes of each half repel each
other least; seeds are different such splits. The b0 belongs to no half: the two have no volume in
common. Noise level, prior and maps are estimated in each half by itself, from all 15 shells or
from four of them (200, 1000, 2000, 3000 s/mm^2). CoV is the within-voxel standard deviation
|x1 - x2| / sqrt(2) over the tissue's mean: the median over voxels, made consistent for normal
differences (``CoV %``), and the root mean square, which single voxels rule (``rms CoV %``).
Contrast is the difference between the medians of the two tissues over the pooled standard
deviation within them, in the maps from all directions.

**Residuals**, outside cerebrospinal fluid: root median square over sigma by shell, relative to its
expectation for pure noise, so that 1 is a perfect model whatever the degrees of freedom. ``span``
is what is left by the projection that no signal model constrains (`bids_gmvae.estimators.noise`),
over sigma: where it is near 1 (a little less at the noise floor, where magnitudes vary less),
sigma is right, and what a signal model has beyond is the model's.

``python -m benchmarks.real FILE.png`` draws the maps.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from matplotlib.figure import Figure
from scipy.stats import chi2
from torch import Tensor

from benchmarks.framework import Effort, Record, Table, Task, medians, pivot, product
from benchmarks.samples import SYMBOLS, scale_of
from bids_gmvae.acquisition import find_shells
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.estimators.noise import residual_variance
from bids_gmvae.io.measured import noise_level
from bids_gmvae.posterior import ParameterPosterior
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.schemes import read_scheme
from bids_gmvae.voxels import Grid, load_image, unmask

MODELS = ("msdki", "ball_stick")
METHODS = ("lsq", "gmvae")
ALL_SHELLS, FOUR_SHELLS = "15 shells", "4 shells"
FOUR = (200.0, 1000.0, 2000.0, 3000.0)
#: Ranges of b-values (s/mm^2) whose residuals are shown.
RANGES = ((0, 3000), (200, 3000), (600, 2400), (1000, 3000))
INDEX = ["model", "data", "quantity", "of"]


@dataclass(frozen=True, eq=False)
class Slice:
    """The measured slice.

    Attributes
    ----------
    run : Measurements
        All volumes of the voxels in the mask; sigma from all of them.
    mask : array of bool, 3-D
    grid : Grid
    tissue : dict of Tensor of bool of shape (n_voxels,)
        WM, GM, CSF.
    """

    run: Measurements
    mask: np.ndarray
    grid: Grid
    tissue: dict[str, Tensor]

    def volumes(self, chosen: Tensor) -> Measurements:
        """Keep some volumes (n_volumes,), and estimate the noise from these alone."""
        acquisition = self.run.acquisition.select(chosen)
        signals = self.run.signals[:, chosen]
        sigma = noise_level(signals.float(), self.mask, self.grid, acquisition, ModelSettings())
        return Measurements(signals, sigma.double(), acquisition)


def tasks(effort: Effort) -> list[Task]:
    """Cross models with splits, and with ranges of b-values; nothing without the data."""
    if not os.environ.get("GMVAE_TEST_DATA"):
        print("real: skipped, GMVAE_TEST_DATA names no folder", file=sys.stderr)
        return []
    models = MODELS[:1] if effort.quick else MODELS
    data = (FOUR_SHELLS,) if effort.quick else (ALL_SHELLS, FOUR_SHELLS)
    halves = product(compare_halves, effort, settings={}, model=models, data=data)
    ranges = [f"b {low}-{high}" for low, high in (RANGES[:1] if effort.quick else RANGES)]
    residuals = [
        Task(measure_residuals, {"model": model, "data": data}, seed=0)
        for model in models
        for data in ranges
    ]
    return [*halves, *residuals]


def summarise(records: Sequence[Record]) -> Table:
    """Give one row per quantity, methods side by side."""
    rows = medians(records, [*INDEX, "method"], ["value"])
    return Table.of(pivot(rows, across=["method"], values=["value"]))


def draw(table: Table, figure: Figure) -> None:
    """Draw residuals by shell: numbers only, no image."""
    axes = figure.subplots(1, len(MODELS), sharey=True)
    for axis, model in zip(axes, MODELS, strict=True):
        for low, high in RANGES:
            rows = table.where(model=model, data=f"b {low}-{high}", quantity="residual")
            bvals = [float(row["of"]) for row in rows]
            axis.plot(bvals, [row["gmvae"] for row in rows], "o-", label=f"gmvae, b {low}-{high}")
        rows = table.where(model=model, data="b 200-3000", quantity="residual")
        axis.plot([float(row["of"]) for row in rows], [row["span"] for row in rows], "k:",
                  label="no signal model")  # fmt: skip
        axis.axhspan(0.95, 1.1, color="0.9", zorder=0)
        axis.set(title=model, xlabel="b (s/mm$^2$)", ylabel="residual / noise", ylim=(0.5, 3))
        axis.legend(fontsize="small")


def compare_halves(model: str, data: str, seed: int) -> list[dict[str, Any]]:
    """Estimate both halves and the whole, and compare them by tissue."""
    measured = load()
    bvals = measured.run.acquisition.bvals
    used = bvals >= min(FOUR) if data == ALL_SHELLS else torch.isin(bvals, torch.tensor(FOUR))
    first = half_of_directions(measured.run, seed)
    found = []
    for method in METHODS:
        whole, *halves = (
            estimate(method, model, measured.volumes(used & part))
            for part in (torch.ones_like(first), first, ~first)
        )
        for column, parameter in enumerate(whole.signal_model.parameters):
            values = whole.mean[:, column] * scale_of(parameter.unit)
            apart = (halves[0].mean - halves[1].mean)[:, column] * scale_of(parameter.unit)
            about = {"method": method, "of": SYMBOLS[parameter.name]}
            for name in ("WM", "GM"):
                members = measured.tissue[name]
                level = float(values[members].nanmean())
                typical = float(apart[members].abs().nanmedian()) / chi2.median(1) ** 0.5
                rms = float(apart[members].square().nanmean().sqrt())
                for quantity, spread in (("CoV %", typical), ("rms CoV %", rms)):
                    value = 100 * spread / 2**0.5 / level
                    found.append({**about, "quantity": f"{name} {quantity}", "value": value})
            white, grey = (values[measured.tissue[name]] for name in ("WM", "GM"))
            white, grey = white[white.isfinite()], grey[grey.isfinite()]
            difference = float(white.median() - grey.median())
            pooled = float(((white.var() + grey.var()) / 2).sqrt())
            found.append({**about, "quantity": "WM - GM", "value": difference})
            found.append({**about, "quantity": "contrast", "value": difference / pooled})
    return found


def measure_residuals(model: str, data: str, seed: int) -> list[dict[str, Any]]:
    """Compare residuals with the noise, shell by shell, outside CSF."""
    measured = load()
    low, high = map(int, data.removeprefix("b ").split("-"))
    bvals = measured.run.acquisition.bvals
    run = measured.volumes((bvals >= low) & (bvals <= high))
    shells = find_shells(run.acquisition)
    outside = ~measured.tissue["CSF"]
    by_method = {
        method: estimate(method, model, run).shell_residual[outside].square() for method in METHODS
    }
    freedom = shells.counts.double() if get_signal_model(model).directional else torch.ones(1)
    expected = torch.from_numpy(chi2.median(freedom) / freedom.numpy())
    found = [
        {"quantity": "residual", "of": round(b), "method": method, "value": float(value)}
        for method, squared in by_method.items()
        for b, value in zip(
            shells.acquisition.bvals.tolist(),
            (squared.nanmedian(dim=0).values / expected).sqrt(),
            strict=True,
        )
    ]
    projected = residual_variance(run.signals, run.acquisition, ModelSettings())
    weighted = shells.acquisition.bvals[shells.counts > 1]
    around = (projected.variance / run.sigma[:, None] ** 2)[outside].median(dim=0).values.sqrt()
    return found + [
        {"quantity": "residual", "of": round(float(b)), "method": "span", "value": float(value)}
        for b, value in zip(weighted, around, strict=True)
    ]


@lru_cache(maxsize=1)
def load() -> Slice:
    """Read the slice."""
    root = Path(os.environ["GMVAE_TEST_DATA"], "01_cfin_multishell_brain")
    stem = root / "sub-cfin01" / "dwi" / "sub-cfin01_dwi"
    masks = root / "derivatives" / "ours" / "sub-cfin01" / "dwi"
    image = load_image(stem.with_suffix(".nii.gz"))
    mask = np.asarray(load_image(masks / "sub-cfin01_desc-brain_mask.nii.gz").dataobj) > 0
    acquisition = read_scheme(stem.with_suffix(".bval"), stem.with_suffix(".bvec"))
    signals = np.asarray(image.dataobj, dtype=np.float64)[mask]
    few = acquisition.bvals.numpy() <= 1000
    table = gradient_table(
        acquisition.bvals.numpy()[few], bvecs=acquisition.bvecs.numpy()[few], b0_threshold=50
    )
    tensor = TensorModel(table).fit(signals[:, few])
    anisotropy, diffusivity = torch.from_numpy(tensor.fa), torch.from_numpy(tensor.md) * 1e3
    solid = (diffusivity > 0.6) & (diffusivity < 1.1)
    tissue = {
        "WM": solid & (anisotropy > 0.35),
        "GM": solid & (anisotropy < 0.2),
        "CSF": diffusivity > 1.6,
    }
    run = Measurements(
        torch.from_numpy(signals), torch.full((len(signals),), torch.nan), acquisition
    )
    return Slice(run, mask, Grid.of(image), tissue)


def half_of_directions(run: Measurements, seed: int) -> Tensor:
    """Tell which volumes belong to the first half, bool (n_volumes,).

    Directions change sides in pairs as long as the energy of axes that repel each other within
    their half falls. The split of one shell serves all, which share their directions.
    """
    shells = find_shells(run.acquisition)
    axes = run.acquisition.bvecs[shells.index == len(shells) - 1]
    cosine = (axes @ axes.T).fill_diagonal_(0)
    energy = 1 / (2 - 2 * cosine).sqrt() + 1 / (2 + 2 * cosine).sqrt()
    energy.fill_diagonal_(0)
    generator = torch.Generator().manual_seed(seed)
    side = torch.ones(len(axes), dtype=torch.float64)
    side[torch.randperm(len(axes), generator=generator)[::2]] = -1
    while True:
        # What changes if i and j, on opposite sides, are swapped; half the sum over pairs.
        pull = side * (energy @ side)
        gain = pull[:, None] + pull + 2 * energy
        gain[side[:, None] * side > 0] = -torch.inf
        if gain.max() < 1e-9:
            break
        i, j = divmod(int(gain.argmax()), len(axes))
        side[[i, j]] *= -1
    nearest = (run.acquisition.bvecs @ axes.T).abs().argmax(dim=1)
    return side[nearest] > 0


def estimate(method: str, model: str, run: Measurements) -> ParameterPosterior:
    """Fit one estimator to all voxels."""
    return get_estimator(method)(get_signal_model(model)).fit(run).posterior(run)


def draw_maps(figure: Figure) -> None:
    """Draw sigma, and every parameter of both models by both methods."""
    measured = load()
    run = measured.volumes(torch.ones(len(measured.run.acquisition), dtype=torch.bool))
    maps = {"sigma / b0": run.sigma / measured.run.signals[:, 0].median()}
    for model in MODELS:
        for method in METHODS:
            posterior = estimate(method, model, run)
            for column, parameter in enumerate(posterior.signal_model.parameters):
                name = f"{SYMBOLS[parameter.name]} {method}"
                maps[name] = posterior.mean[:, column] * scale_of(parameter.unit)
    axes = figure.subplots(3, 4).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes, maps.items(), strict=False):
        picture = unmask(values.numpy(), measured.mask)[:, :, 0].T
        shown = axis.imshow(picture, origin="lower", vmin=0, vmax=np.nanpercentile(picture, 98))
        axis.set_title(name)
        figure.colorbar(shown, ax=axis)


if __name__ == "__main__":
    canvas = Figure(figsize=(16, 11), layout="constrained")
    draw_maps(canvas)
    canvas.savefig(sys.argv[1], dpi=100)
