"""Small fitted runs to draw: discs of white matter, grey matter and fluid with noise."""

from pathlib import Path

import nibabel as nb
import numpy as np
import torch

from bids_gmvae.acquisition import Acquisition, find_shells
from bids_gmvae.io.result import RunResult
from bids_gmvae.io.run import Run
from bids_gmvae.posterior import ParameterPosterior, Status
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.voxels import Grid

#: Typical values of white matter, grey matter and fluid by parameter name.
TISSUES = {
    "diffusivity": (0.9e-3, 1.0e-3, 2.9e-3),
    "kurtosis": (1.0, 0.6, 0.05),
    "stick_fraction": (0.6, 0.15, 0.02),
    "stick_diffusivity": (1.9e-3, 1.2e-3, 1.8e-3),
    "ball_diffusivity": (0.8e-3, 0.9e-3, 2.9e-3),
    "t2": (0.07, 0.09, 0.19),
    "perfusion_fraction": (0.05, 0.1, 0.02),
    "pseudo_diffusivity": (0.02, 0.03, 0.05),
}


def make_result(
    *,
    shape=(20, 24, 3),
    model="msdki",
    estimator="gmvae",
    stem="sub-01",
    zooms=(2.0, 2.0, 2.0),
    failed=5,
    issues=(),
    seed=0,
    bvals=(0, 0, *[1000] * 12, *[2000] * 12),
):
    """Make a run whose estimates are the truth plus noise."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + 0.7 * z**2)
    tissue = np.where(radius < 0.25, 2, np.where(radius < 0.6, 0, 1))
    mask = radius < 0.92
    removed = (radius >= 0.86) & mask & (x > 0.5)
    mask &= ~removed
    tissue = tissue[mask]
    n_voxels = len(tissue)

    signal_model = get_signal_model(model)
    columns = {"bvals": torch.tensor(bvals, dtype=torch.float64)}
    vectors = rng.normal(size=(len(bvals), 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns["bvecs"] = torch.from_numpy(np.where(np.array(bvals)[:, None] > 0, vectors, 0))
    if model == "t2_adc":
        columns["echo_times"] = torch.tensor([0.06, 0.08] * (len(bvals) // 2)).double()
    acquisition = Acquisition(**columns)
    shells = find_shells(acquisition)

    names = [parameter.name for parameter in signal_model.parameters]
    truth = np.stack([np.array(TISSUES[name])[tissue] for name in names], 1)
    spread = 0.08 * np.abs(truth) + 0.02 * truth.mean(0)
    status = np.full(n_voxels, int(Status.FITTED))
    status[rng.choice(n_voxels, n_voxels // 20, replace=False)] = Status.AT_BOUND
    status[:failed] = Status.NOT_CONVERGED

    def posterior(scale, **extra):
        mean = truth + scale * spread * rng.normal(size=truth.shape)
        mean[:failed] = np.nan
        values = torch.from_numpy(mean.astype(np.float32))
        std = torch.from_numpy((scale * spread).astype(np.float32))
        direction = np.stack([y[mask], -x[mask], 0.4 + 0 * x[mask]], 1)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return ParameterPosterior(
            signal_model=signal_model,
            mean=values,
            std=std,
            status=torch.from_numpy(status),
            s0=torch.full((n_voxels,), 1000.0),
            residual=torch.from_numpy(rng.gamma(25, 1 / 25, n_voxels).astype(np.float32)),
            shell_residual=torch.from_numpy(
                rng.gamma(12, 1 / 12, (n_voxels, len(shells))).astype(np.float32)
            ),
            orientation=torch.from_numpy(direction) if signal_model.directional else None,
            derived={
                parameter: (value, 0.1 * value)
                for parameter, value in signal_model.derived(values).items()
            },
            **extra,
        )

    mixture = {}
    if estimator == "gmvae":
        odds = np.exp(3 * (tissue[:, None] == np.arange(3)) + rng.normal(size=(n_voxels, 3)))
        mixture = {
            "prior_influence": torch.from_numpy(rng.beta(2, 6, truth.shape).astype(np.float32)),
            "responsibilities": torch.from_numpy(odds / odds.sum(1, keepdims=True)),
            "unexpected": torch.from_numpy(rng.beta(0.3, 8, n_voxels).astype(np.float32)),
        }
    lsq = posterior(2.0)
    reference = np.where(radius < 1, 1000 - 300 * radius, 20).astype(np.float32)
    return RunResult(
        run=Run(
            modality="dwi",
            files=(Path(f"{stem}_dwi.nii.gz"),),
            entities={"subject": stem.split("_")[0].removeprefix("sub-")},
        ),
        grid=Grid(shape, nb.affines.from_matvec(np.diag(zooms), (-20, -24, -10)), 1, 1),
        mask=mask,
        removed=removed,
        reference=reference,
        sigma=np.full(n_voxels, 45.0, np.float32) * (1 + 0.3 * np.sin(3 * x[mask])),
        acquisition=acquisition,
        posterior=posterior(1.0, **mixture) if estimator != "lsq" else lsq,
        lsq=None if estimator == "lsq" else lsq,
        info={
            "issues": [dict(issue) for issue in issues],
            "mask": {
                "source": "derivative",
                "counts": {"given": int(mask.sum() + removed.sum()), "kept": int(mask.sum())},
            },
            "shells": [
                {"b_value": float(b), "n_volumes": int(n), "is_b0": bool(zero)}
                for b, n, zero in zip(
                    shells.acquisition.bvals, shells.counts, shells.is_b0, strict=True
                )
            ],
            "fit": {
                "estimator": estimator,
                "settings": {"n_components": 3, "random_seed": 7, "noise_model": "rician",
                             "noise_map": "auto", "recognition": "newton",
                             "b0_threshold": 100.0, "shell_tolerance": 0.05},
                "history": [-3 - 4 * float(np.exp(-step / 4)) for step in range(25)]
                if estimator == "gmvae" else [],
                "summary": {"n_active": 3},
                "device": "cpu",
            },
            "frame": "FSL .bvec, rotated into image axes",
            "signal_model": model,
            "reason": "chosen for two or more shells",
        },
    )  # fmt: skip
