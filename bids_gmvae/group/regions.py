"""Regions over which parameters are summarised: tissue components and atlases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.atomic import read_tsv
from bids_gmvae.io.derivatives import in_space, map_name
from bids_gmvae.io.qc import ACTIVE, UNEXPECTED
from bids_gmvae.io.templates import template_atlas
from bids_gmvae.posterior import FAILED, Status
from bids_gmvae.voxels import DAMAGED, load_image

#: Voxels with these codes in the status map hold no estimate.
WITHOUT_ESTIMATE = (Status.OUTSIDE, Status.NO_SIGNAL_SUPPORT, *FAILED)


@dataclass(frozen=True, eq=False)
class Atlas:
    """A segmentation with names.

    Attributes
    ----------
    name : str
        Its name in the tables.
    labels : array of int, 3-D
        0 is no region.
    affine : array of shape (4, 4)
        Voxel indices to world coordinates, mm.
    regions : mapping of int to str
        Names by label.
    """

    name: str
    labels: NDArray[np.int64]
    affine: NDArray[np.float64]
    regions: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A partition of the voxels of a run.

    Attributes
    ----------
    name : str
        Its name in the tables.
    labels : array of int, 3-D
        Negative where there is no region.
    regions : mapping of int to (region, label)
        What the tables call the regions.
    """

    name: str
    labels: NDArray[np.int64]
    regions: Mapping[int, tuple[str, str]]


def read_atlas(text: str) -> Atlas:
    """Read an atlas given as ``IMAGE+TABLE``, ``IMAGE`` or a name of TemplateFlow.

    The table of an image alone is the ``.tsv`` beside it, as in BIDS.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    match = re.fullmatch(r"(.+\.nii(?:\.gz)?)(?:\+(.+\.tsv))?", text)
    if match:
        image_path = Path(match[1])
        beside = image_path.with_name(re.sub(r"\.nii(\.gz)?$", ".tsv", image_path.name))
        table_path = Path(match[2]) if match[2] else beside if beside.is_file() else None
    else:
        image_path, table_path = template_atlas(text)
    for path in (image_path, table_path):
        if path is not None and not path.is_file():
            raise InputError(f"The atlas file {path} does not exist.", "Check --atlas.")
    try:
        image = load_image(image_path)
        labels = np.rint(np.squeeze(np.asanyarray(image.dataobj))).astype(np.int64)
    except DAMAGED as error:
        raise InputError(f"The atlas {image_path} cannot be read: {error}.") from error
    if labels.ndim != 3:
        raise InputError(
            f"The atlas {image_path} has {labels.ndim} dimensions, not 3.",
            "Give one image of integer labels.",
        )
    present = [int(label) for label in np.unique(labels) if label > 0]
    regions = {label: str(label) for label in present}
    if table_path is not None:
        rows = read_tsv(table_path)
        if not rows or not {"index", "name"} <= rows[0].keys():
            raise InputError(
                f"The atlas table {table_path} lacks the columns index and name.",
                "Give the table that BIDS asks for beside a _dseg image.",
            )
        regions |= {int(row["index"]): row["name"] for row in rows if int(row["index"]) > 0}
    named = re.search(r"_(?:atlas|seg)-([a-zA-Z0-9+]+)", image_path.name)
    name = named[1] if named else image_path.name.split(".")[0]
    return Atlas(name, labels, np.asarray(image.affine), regions)


def voxels_with_estimate(
    folder: Path, stem: str, model: str, resolution: str | None = None
) -> NDArray[np.bool_]:
    """Tell by the status map of a model which voxels hold an estimate.

    The mask is no guide: all models of a run share it, and a later call may have replaced it.
    """
    name = map_name(stem, "dseg", model=model, desc="status", res=resolution)
    return ~np.isin(load_map(folder, name), WITHOUT_ESTIMATE)


def tissue_components(
    folder: Path, stem: str, model: str, inside: NDArray[np.bool_], first: NDArray
) -> Segmentation | None:
    """Assign each voxel to its most probable component; number them by the first parameter."""
    volumes: list[NDArray] = []
    while True:
        name = map_name(
            stem, "probseg", model=model, label=f"C{len(volumes) + 1}", desc="component"
        )
        if not (folder / f"{name}.nii.gz").exists():
            break
        volumes.append(load_map(folder, name))
    if not volumes:
        return None
    usable = inside & np.isfinite(first) & np.isfinite(volumes[0])
    best = np.argmax(np.stack(volumes), axis=0) + 1
    unexpected = folder / f"{map_name(stem, 'probseg', model=model, desc='unexpected')}.nii.gz"
    n_components = len(volumes)
    if unexpected.exists():
        best[load_map(folder, unexpected.name.removesuffix(".nii.gz")) > UNEXPECTED] = (
            n_components + 1
        )
    labels = np.where(usable, best, -1).astype(np.int64)
    counts = np.bincount(labels[usable], minlength=n_components + 2)
    large = [k for k in range(1, n_components + 1) if counts[k] >= max(1, ACTIVE * usable.sum())]
    large.sort(key=lambda k: float(first[labels == k].mean()))
    minor = [k for k in range(1, n_components + 1) if counts[k] and k not in large]
    regions = {k: (f"component-{rank}", f"C{k}") for rank, k in enumerate(large, start=1)}
    if minor:
        labels[np.isin(labels, minor)] = n_components + 2
        regions[n_components + 2] = ("component-minor", "+".join(f"C{k}" for k in minor))
    if counts[n_components + 1]:
        regions[n_components + 1] = ("unexpected", "")
    return Segmentation("components", labels, regions)


def place_of(folder: Path, stem: str, model: str, atlas: Atlas) -> tuple[str, str | None] | None:
    """Find the maps of a model on the grid of an atlas: their entities and their resolution."""
    for path in sorted(folder.glob("*_desc-status_dseg.nii.gz")):
        name = path.name.removesuffix("_desc-status_dseg.nii.gz")
        found = re.fullmatch(
            rf"(?P<stem>.*_space-(?P<space>[^_]+).*)_model-{model}_res-(?P<res>[^_]+)", name
        )
        if name == f"{stem}_model-{model}":
            place: tuple[str, str | None] = (stem, None)
        elif found and found["stem"] == in_space(stem, found["space"]):
            place = (found["stem"], found["res"])
        else:
            continue
        image = load_image(path)
        if image.shape == atlas.labels.shape and np.allclose(
            image.affine, atlas.affine, atol=1e-3
        ):
            return place
    return None


def load_map(folder: Path, name: str) -> NDArray:
    """Read a map by its name without extension."""
    return np.asanyarray(load_image(folder / f"{name}.nii.gz").dataobj)
