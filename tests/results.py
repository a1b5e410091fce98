"""Fitted runs made from arrays, without a fit: for tests of what comes after it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import RunSettings
from bids_gmvae.io.result import RunResult
from bids_gmvae.io.run import Run
from bids_gmvae.posterior import ParameterPosterior, Status
from bids_gmvae.signal_models import get_signal_model
from bids_gmvae.voxels import Grid

#: Oblique, anisotropic and left-handed, like most scanner images.
AFFINE = np.array(
    [[-2.0, 0.1, 0.0, 9.0], [0.1, 2.0, 0.2, -12.0], [0.0, -0.2, 2.5, 3.0], [0.0, 0.0, 0.0, 1.0]]
)

PROVENANCE = {
    "version": "0.1.0",
    "settings": RunSettings(Path("in"), Path("out"), "participant").to_dict()["model"],
    "device": "cpu",
    "sloppy": False,
    "links": {},
}


def make_run(
    root: Path = Path("/data/qsiprep"),
    *,
    subject: str = "01",
    session: str | None = "1",
    space: str | None = "ACPC",
    dataset: str = "qsiprep",
) -> Run:
    """Describe a run; its files need not exist."""
    folder = root / f"sub-{subject}"
    stem = f"sub-{subject}"
    if session:
        folder /= f"ses-{session}"
        stem += f"_ses-{session}"
    folder /= "dwi"
    desc = "_desc-preproc" if space else ""
    if space:
        stem += f"_space-{space}"
    entities = {"subject": subject, "session": session, "space": space, "suffix": "dwi"}
    return Run(
        modality="dwi",
        files=(folder / f"{stem}{desc}_dwi.nii.gz",),
        entities={key: value for key, value in entities.items() if value},
        metadata={"PatientName": "not to be copied"},
        companions={
            "bval": folder / f"{stem}{desc}_dwi.bval",
            "bvec": folder / f"{stem}{desc}_dwi.bvec",
            **({"reference": folder / f"{stem}_dwiref.nii.gz"} if space else {}),
        },
        dataset=dataset,
        dataset_root=root,
    )


def make_result(
    signal_model_name: str = "msdki",
    shape: tuple[int, int, int] = (6, 7, 5),
    seed: int = 0,
    *,
    n_components: int = 3,
    estimator: str = "gmvae",
    run: Run | None = None,
    grid: Grid | None = None,
) -> RunResult:
    """Make a fitted run: a box of voxels with every status, in physiological ranges.

    Parameters
    ----------
    signal_model_name : str
        A registered signal model; directional ones get orientations.
    shape : tuple of int
        Grid; the mask leaves a border of one voxel.
    seed : int
        Of everything random.
    n_components : int
        Tissue components; 0 for an estimator without a mixture.
    estimator : str
        What is claimed to have made it; ``"lsq"`` has no prior and no second fit.
    run, grid : Run, Grid, optional
        By default a QSIPrep-like run on an oblique left-handed grid.
    """
    generator = torch.Generator().manual_seed(seed)
    signal_model = get_signal_model(signal_model_name)
    grid = grid or Grid(shape=shape, affine=AFFINE, qform_code=1, sform_code=2)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1:-1, 1:-1, 1:-1] = True
    removed = np.zeros_like(mask)
    removed[1, 1, 1] = True
    mask &= ~removed
    n_voxels = int(mask.sum())
    voxelwise = estimator == "lsq"
    n_components = 0 if voxelwise else n_components

    # Component k sits at its own place of the population, so that tissues differ.
    tissue = torch.randint(max(n_components, 1), (n_voxels,), generator=generator)
    n_parameters = len(signal_model.parameters)
    z = 0.8 * (tissue - (n_components - 1) / 2)[:, None] + 0.1 * torch.randn(
        (n_voxels, n_parameters), generator=generator
    )
    status = torch.full((n_voxels,), int(Status.FITTED))
    special = (Status.AT_BOUND, Status.NOT_CONVERGED, Status.NOT_FINITE, Status.UNIDENTIFIED)
    for voxel, code in zip(range(n_voxels), special, strict=False):
        status[voxel] = int(code)

    def posterior(values: torch.Tensor, *, prior: bool) -> ParameterPosterior:
        std = 0.05 * values.abs() + 1e-6
        chances = torch.full((n_voxels, max(n_components, 1)), 0.05)
        chances[torch.arange(n_voxels), tissue] = 1.0
        chances /= chances.sum(1, keepdim=True)
        axis = torch.randn((n_voxels, 3), generator=generator)
        return ParameterPosterior(
            signal_model=signal_model,
            mean=values,
            std=std,
            status=status,
            s0=1000 + 50 * torch.randn(n_voxels, generator=generator),
            residual=1 + 0.1 * torch.rand(n_voxels, generator=generator),
            shell_residual=1 + 0.1 * torch.rand((n_voxels, 3), generator=generator),
            prior_influence=(
                torch.rand((n_voxels, n_parameters), generator=generator) if prior else None
            ),
            responsibilities=chances if prior and n_components else None,
            unexpected=torch.rand(n_voxels, generator=generator) ** 4 if prior else None,
            orientation=axis / axis.norm(dim=1, keepdim=True)
            if signal_model.directional
            else None,
            derived={
                parameter: (value, 0.05 * value)
                for parameter, value in signal_model.derived(values).items()
            },
        )

    values = signal_model.to_physical(z)
    noisy = signal_model.to_physical(z + 0.1 * torch.randn(z.shape, generator=generator))
    bvals = torch.tensor([0.0] * 2 + [1000.0] * 6 + [2000.0] * 6, dtype=torch.float64)
    bvecs = torch.randn((len(bvals), 3), generator=generator, dtype=torch.float64)
    bvecs = bvecs / bvecs.norm(dim=1, keepdim=True) * (bvals > 0)[:, None]
    rng = np.random.default_rng(seed)
    return RunResult(
        run=run or make_run(),
        grid=grid,
        mask=mask,
        removed=removed,
        reference=np.where(mask, 1000, 10).astype(np.float32),
        sigma=rng.uniform(30, 50, n_voxels).astype(np.float32),
        acquisition=Acquisition(bvals=bvals, bvecs=bvecs),
        posterior=posterior(values, prior=not voxelwise),
        lsq=None if voxelwise else posterior(noisy, prior=False),
        info={
            "issues": [
                {"severity": "warning", "code": "few_b0", "text": "Two b0 volumes.", "hint": ""}
            ],
            "mask": {"source": "derivatives mask"},
            "shells": [
                {"b_value": 0.0, "n_volumes": 2, "is_b0": True},
                {"b_value": 1000.0, "n_volumes": 6, "is_b0": False},
                {"b_value": 2000.0, "n_volumes": 6, "is_b0": False},
            ],
            "fit": {
                "estimator": estimator,
                "settings": {**PROVENANCE["settings"], "n_components": n_components},
                "history": [] if voxelwise else [-30.0, -21.0, -20.123456789],
                "summary": {
                    "device": "cpu",
                    "recognition": "newton",
                    "n_components": n_components,
                    "n_active": n_components,
                },
                "device": "cpu",
            },
            "frame": "image axes",
            "signal_model": signal_model_name,
            "reason": "as requested",
        },
    )


def write_inputs(result: RunResult) -> None:
    """Write the files that a made run names, so that paths resolve."""
    run = result.run
    run.image.parent.mkdir(parents=True, exist_ok=True)
    nb.save(result.grid.image(result.reference), run.image)
    for path in run.companions.values():
        path.write_text("")
