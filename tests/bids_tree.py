"""BIDS trees from a dict, for tests: names and contents, nothing binary in git."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nb
import numpy as np

BVALS = (0, 1000, 1000, 1000, 1000, 1000, 1000)
#: det > 0, so FSL tables have their first axis negated.
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
#: LPS+, as QSIPrep writes.
LPS = np.diag([-2.0, -2.0, 2.0, 1.0])
RAW = {"Name": "study", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
MASK_DATASET = {
    "Name": "masks",
    "BIDSVersion": "1.10.0",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "by hand"}],
}

#: dataset_description.json and space by version of QSIPrep.
QSIPREP = {
    "0.22": ({"Name": "qsiprep output", "PipelineDescription": {"Name": "qsiprep"}}, "T1w"),
    "0.23": ({"Name": "qsiprep output", "DatasetType": "derivative"}, "T1w"),
    "0.24": ({"DatasetType": "derivative", "GeneratedBy": [{"Name": "qsiprep"}]}, "ACPC"),
    "1.0": ({"DatasetType": "derivative", "GeneratedBy": [{"Name": "QSIPrep"}]}, "ACPC"),
    "26.0": ({"DatasetType": "derivative", "GeneratedBy": [{"Name": "qsiprep"}]}, "ACPC"),
}


def write_tree(root: Path, files: dict) -> Path:
    """Write files: text as it is, dicts as JSON, arrays as NIfTI, paths as symbolic links.

    An array may come with its affine, as a tuple.
    """
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            path.symlink_to(content)
        elif isinstance(content, dict):
            path.write_text(json.dumps(content))
        elif isinstance(content, str):
            path.write_text(content)
        else:
            array, affine = content if isinstance(content, tuple) else (content, AFFINE)
            nb.save(nb.Nifti1Image(array, affine), path)
    return root


def directions(n: int, seed: int = 0) -> np.ndarray:
    """Draw unit vectors (n, 3)."""
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def text_of(rows) -> str:
    """Write numbers as FSL does: rows of blank-separated values."""
    return "\n".join(" ".join(f"{value:.6g}" for value in row) for row in np.atleast_2d(rows))


def series(stem: str, bvals=BVALS, *, shape=(3, 4, 2), affine=AFFINE, sidecar=None) -> dict:
    """Give the files of a diffusion series whose names start with ``stem``."""
    bvals = np.asarray(bvals, dtype=float)
    bvecs = directions(len(bvals)) * (bvals[:, None] > 0)
    image = np.full((*shape, len(bvals)), 100, dtype=np.int16)
    return {
        f"{stem}_dwi.nii.gz": (image, affine),
        f"{stem}_dwi.bval": text_of(bvals),
        f"{stem}_dwi.bvec": text_of(bvecs.T),
        f"{stem}_dwi.json": sidecar or {"EchoTime": 0.08},
    }


def raw_dataset(*stems: str, **more) -> dict:
    """Give the files of a raw dataset; stems are ``sub-01/dwi/sub-01`` and the like."""
    files = {"dataset_description.json": RAW}
    for stem in stems:
        files |= series(stem)
    return files | more


def qsiprep_dataset(version: str, *names: str, anatomy: bool = True) -> dict:
    """Give the files that a version of QSIPrep writes.

    ``names`` are entities such as ``sub-01_ses-1_run-2``.
    """
    description, space = QSIPREP[version]
    files: dict = {"dataset_description.json": {"BIDSVersion": "1.1.1"} | description}
    old, modern = space == "T1w", version in ("1.0", "26.0")
    for name in names or ("sub-01",):
        subject, *rest = name.split("_")
        session = next((f"{part}/" for part in rest if part.startswith("ses-")), "")
        stem = f"{subject}/{session}dwi/{name}"
        image = f"{stem}_space-{space}_desc-preproc"
        files |= series(image, affine=LPS)
        if old:
            del files[f"{image}_dwi.json"]
        bvals = np.array(BVALS, dtype=float)
        files[f"{image}_dwi.b"] = text_of(np.c_[directions(len(bvals), 1), bvals])
        files[f"{stem}_space-{space}_desc-brain_mask.nii.gz"] = (np.ones((3, 4, 2), "u1"), LPS)
        files[f"{stem}_space-{space}_dwiref.nii.gz"] = (np.ones((3, 4, 2), "f4"), LPS)
        if old:
            files[f"{stem}_confounds.tsv"] = "framewise_displacement\n"
            files[f"{stem}_space-{space}_desc-ImageQC_dwi.csv"] = "file_name\n"
        else:
            files[f"{stem}_desc-confounds_timeseries.tsv"] = "framewise_displacement\n"
            extension = "tsv" if modern else "csv"
            files[f"{stem}_space-{space}_desc-image_qc.{extension}"] = "file_name\n"
        if anatomy:
            transform = f"{subject}_from-{space}_to-MNI152NLin2009cAsym_mode-image_xfm.h5"
            files[f"{subject}/anat/{transform}"] = ""
    return files


def prefixed(folder: str, files: dict) -> dict:
    """Move files into a folder."""
    return {f"{folder}/{name}": content for name, content in files.items()}
