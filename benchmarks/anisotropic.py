"""MS-DKI in tissue whose signal depends on direction: the bias of powder averages.

Voxels are made of fibres in random orientations, each a stick in a zeppelin: a fraction f of the
signal decays along the fibre only, the rest less so along than across it (f, diffusivities
axial / radial in um^2/ms, with 8 % variation between voxels):

- white matter (D .76, K 1.0): .55, 2.1 / .42; all fibres of a voxel parallel, fanning out by 25
  degrees (sd), or half of them crossing the others at 60 degrees;
- grey matter (D 1.0, K .65), hardly anisotropic: .25, 1.5 / 1.0, fibres in almost all directions.

Truth are the MS-DKI parameters that fit the noiseless powder average. Protocols: ``hcp``, 18 b0 +
90 directions, and ``multishell``, 6 b0 + 30 directions at each of 1000, 2000, 3000 s/mm^2; Rician
noise whose level is known; S0 unknown.

Methods: dipy; ``lsq`` on plain shell averages, on averages freed from the estimated excess of
anisotropic tissue (as the app does), and from the true excess E(signal) - E(mean signal) of each
volume (the oracle); ``gmvae``, whose prior has learnt from all voxels.

Table: bias and root mean square error of D (um^2/ms) and K, medians over seeds, and the ratio of
the latter to that of the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.framework import Effort, Record, Table, Task, medians, pivot, product
from benchmarks.msdki import dipy_msdki
from benchmarks.samples import Estimated, Sample, estimate, relative, scores
from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.estimators import get_estimator
from bids_gmvae.estimators.base import Measurements
from bids_gmvae.likelihoods import Rician
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.simulation.noise import add_rician_noise
from bids_gmvae.simulation.schemes import get_scheme
from bids_gmvae.simulation.tissues import sample_orientations

N_FIBRES = 16
VARIATION = 0.08
ORACLE = "oracle"
METHODS = ("dipy", "lsq uncorrected", "lsq", ORACLE, "gmvae")


@dataclass(frozen=True)
class Fibres:
    """Fibres of a voxel.

    Attributes
    ----------
    stick : float
        Fraction of signal that decays along the fibre only.
    axial, radial : float
        Diffusivities, um^2/ms.
    crossing : float
        Angle at which half of the fibres cross the others, degrees.
    fanning : float
        Standard deviation of a fibre's direction, along two axes, tangent of the angle.
    """

    stick: float
    axial: float
    radial: float
    crossing: float = 0.0
    fanning: float = 0.0


TISSUES = {
    "WM": Fibres(0.55, 2.1, 0.42),
    "WM fanning": Fibres(0.55, 2.1, 0.42, fanning=0.45),
    "WM crossing": Fibres(0.55, 2.1, 0.42, crossing=60.0),
    "GM": Fibres(0.25, 1.5, 1.0, fanning=1.0),
}


def tasks(effort: Effort) -> list[Task]:
    """Cross protocols and noise levels."""
    return product(
        compare,
        effort,
        scheme=("hcp", "multishell"),
        snr=(20,) if effort.quick else (10, 20, 30, 50),
    )


def compare(scheme: str, snr: float, seed: int, n_voxels: int) -> Sequence[Record]:
    """Score all methods on the same voxels."""
    generator = torch.Generator().manual_seed(seed)
    acquisition = get_scheme(scheme)
    of_each = n_voxels // len(TISSUES)
    signals = torch.cat(
        [fibre_signals(fibres, acquisition, of_each, generator) for fibres in TISSUES.values()]
    )
    sigma = torch.full((len(signals),), 1 / snr, dtype=signals.dtype)
    model = get_signal_model("msdki")
    # Without directions nothing is corrected.
    undirected = Acquisition(bvals=acquisition.bvals)
    lsq = get_estimator("lsq")(model)
    noiseless = Measurements(signals, sigma / 1000, undirected)
    truth = lsq.fit(noiseless).posterior(noiseless).mean
    run = Measurements(add_rician_noise(signals, 1 / snr, generator), sigma, acquisition)
    label = torch.arange(len(TISSUES)).repeat_interleave(of_each)
    orientation = torch.full((len(signals), 3), torch.nan)  # not one, and not asked for
    sample = Sample(model, run, truth, label, orientation)
    plain = replace(sample, run=replace(run, acquisition=undirected))
    freed = run.signals - volume_excess(signals, acquisition, 1 / snr)
    oracle = replace(sample, run=Measurements(freed, sigma, undirected))
    methods: dict[str, Estimated] = {
        "dipy": dipy_msdki(sample),
        "lsq uncorrected": estimate("lsq", plain),
        "lsq": estimate("lsq", sample),
        ORACLE: estimate("lsq", oracle),
        "gmvae": estimate("gmvae", sample),
    }
    groups = {tissue: position for position, tissue in enumerate(TISSUES)}
    scored = [
        row
        for name, estimated in methods.items()
        for row in scores(name, estimated, sample, groups)
    ]
    return relative(scored, ORACLE)


def fibre_signals(
    fibres: Fibres, acquisition: Acquisition, n_voxels: int, generator: torch.Generator
) -> Tensor:
    """Give noiseless signals (n_voxels, n_measurements) of fibres in random orientations."""
    f64 = torch.float64
    stick, axial, radial = (
        value * (1 + VARIATION * torch.randn(n_voxels, 1, 1, generator=generator, dtype=f64))
        for value in (fibres.stick, fibres.axial, fibres.radial)
    )
    main = sample_orientations(n_voxels, generator)
    across = torch.linalg.cross(main, sample_orientations(n_voxels, generator))
    angle = torch.deg2rad(torch.tensor([0.0, fibres.crossing], dtype=f64)).repeat(N_FIBRES // 2)
    directions = (
        angle.cos()[:, None] * main[:, None]
        + angle.sin()[:, None] * (across / across.norm(dim=1, keepdim=True))[:, None]
    )
    directions = directions + fibres.fanning * torch.randn(
        directions.shape, generator=generator, dtype=f64
    )
    directions = directions / directions.norm(dim=2, keepdim=True)
    squared_cosine = torch.einsum("vfx,mx->vmf", directions, acquisition.bvecs) ** 2
    b = (acquisition.bvals / 1000)[:, None]
    along = torch.exp(-b * axial * squared_cosine)
    around = torch.exp(-b * (radial + (axial - radial) * squared_cosine))
    return (stick * along + (1 - stick) * around).mean(dim=2)


def volume_excess(signals: Tensor, acquisition: Acquisition, sigma: float) -> Tensor:
    """Give by how much each volume exceeds the expected magnitude of its powder average."""
    shells = find_shells(acquisition)
    noise = torch.tensor(sigma, dtype=signals.dtype)
    average = Rician(shells.mean(signals), noise).mean
    return Rician(signals, noise).mean - average[:, shells.index]


def summarise(records: Sequence[Record]) -> Table:
    """Give bias, error and its ratio to the oracle's."""
    index = ["scheme", "tissue", "snr", "method"]
    values = ["bias", "rmse", "ratio"]
    rows = pivot(
        medians(records, [*index, "parameter"], values), across=["parameter"], values=values
    )
    order = list(TISSUES)
    return Table.of(
        sorted(rows, key=lambda row: (row["scheme"], order.index(row["tissue"]), row["snr"]))
    )


def draw(table: Table, figure: Figure) -> None:
    """Draw the bias of K over SNR."""
    axes = figure.subplots(2, len(TISSUES), sharex=True, sharey="col")
    for line, scheme in zip(axes, ("hcp", "multishell"), strict=True):
        for panel, tissue in zip(line, TISSUES, strict=True):
            for method in METHODS:
                rows = table.where(scheme=scheme, tissue=tissue, method=method)
                bias = [row["K bias"] for row in rows]
                panel.plot([row["snr"] for row in rows], bias, "o-", label=method, markersize=3)
            panel.axhline(0, color="black", linewidth=0.5)
            panel.set_title(f"{tissue}, {scheme}", fontsize=9)
        line[0].set_ylabel("bias of K")
    for panel in axes[1]:
        panel.set_xlabel("SNR")
    axes[0, 0].legend(fontsize=7)
