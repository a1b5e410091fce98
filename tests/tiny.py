"""A tiny dataset with real signals: tissue in two halves, Rician noise, a mask beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.bids_tree import MASK_DATASET, RAW, directions, text_of, write_tree

BVALS = np.array([0.0] * 4 + [1000.0] * 8 + [2000.0] * 8)
SHAPE = (7, 6, 3)


def signals(seed: int, bvals=BVALS, shape=SHAPE) -> np.ndarray:
    """Draw magnitudes (*shape, n_volumes): mean diffusivity 0.8 and 1.5e-3 mm^2/s."""
    rng = np.random.default_rng(seed)
    diffusivity = np.where(np.arange(shape[0]) < shape[0] // 2, 0.8e-3, 1.5e-3)
    decay = diffusivity[:, None, None, None] * bvals * np.ones((*shape, 1))
    clean = 1000 * np.exp(-decay + decay**2 * 0.8 / 6)
    noise = rng.normal(scale=30, size=(2, *clean.shape))
    return np.hypot(clean + noise[0], noise[1]).astype(np.int16)


def tiny_run(stem: str, seed: int, bvals=BVALS) -> dict:
    """Give the files of a run; ``stem`` is e.g. ``sub-01/dwi/sub-01``."""
    bvecs = directions(len(bvals)) * (bvals[:, None] > 0)
    return {
        f"{stem}_dwi.nii.gz": signals(seed, bvals),
        f"{stem}_dwi.bval": text_of(bvals),
        f"{stem}_dwi.bvec": text_of(bvecs.T),
        f"{stem}_dwi.json": {"EchoTime": 0.08, "PatientName": "Somebody"},
    }


def tiny_mask(stem: str) -> dict:
    """Give the mask of a run, to be put into a derivative."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:-1, 1:-1] = 1
    return {f"derivatives/masks/{stem}_desc-brain_mask.nii.gz": mask}


def tiny_dataset(root: Path, *stems: str, **more) -> Path:
    """Write a raw dataset with masks."""
    files: dict = {
        "dataset_description.json": RAW,
        "derivatives/masks/dataset_description.json": MASK_DATASET,
    }
    for seed, stem in enumerate(stems):
        files |= tiny_run(stem, seed) | tiny_mask(stem)
    return write_tree(root, files | more)
