"""Native maps in a standard space, through the transform that preprocessing wrote."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.atomic import write_bytes, write_image, write_json
from bids_gmvae.io.derivatives import in_space, map_path
from bids_gmvae.io.image_checks import kind_of
from bids_gmvae.io.run import Run
from bids_gmvae.io.sidecars import uris
from bids_gmvae.io.templates import DEFAULT_RESOLUTION, template_grid
from bids_gmvae.voxels import Grid, load_image

logger = logging.getLogger(__name__)


def parse_space(text: str) -> tuple[str, str]:
    """Take a word of ``--output-spaces`` apart.

    Parameters
    ----------
    text : str
        ``NAME`` or ``NAME:res-INDEX``.

    Returns
    -------
    space, resolution : str
        Name of the template and TemplateFlow's index of its resolution.

    Raises
    ------
    InputError
        If it is something else.

    Examples
    --------
    >>> parse_space("MNI152NLin2009cAsym:res-1")
    ('MNI152NLin2009cAsym', '1')
    >>> parse_space("MNI152NLin2009cAsym")
    ('MNI152NLin2009cAsym', '2')
    """
    match = re.fullmatch(r"([a-zA-Z0-9+]+)(?::res-0*([1-9][0-9]*))?", text)
    if not match:
        raise InputError(
            f"The output space '{text}' is not of the form NAME or NAME:res-INDEX.",
            "Write e.g. MNI152NLin2009cAsym:res-2.",
        )
    return match.group(1), match.group(2) or DEFAULT_RESOLUTION


def resample_to_template(
    maps: Iterable[Path], run: Run, out_dir: Path, space: str, resolution: str | None = None
) -> list[Path]:
    """Write maps of a run again on the grid of a template.

    Scalars are interpolated linearly among the voxels that hold an estimate, so that neither the
    zeros outside the mask nor failed voxels bleed in; the mask and the status take the nearest
    voxel. Orientations would have to be turned and are left out.

    Parameters
    ----------
    maps : iterable of Path
        What `bids_gmvae.io.derivatives.write_result` wrote; other files than images are passed
        over.
    run : Run
        The run; its companion ``to_template`` is the transform.
    out_dir : Path
        Root of the output dataset.
    space : str
        Name of the template, e.g. ``"MNI152NLin2009cAsym"``.
    resolution : str, optional
        TemplateFlow's index of the resolution, e.g. ``"2"``; `DEFAULT_RESOLUTION` if absent.

    Returns
    -------
    list of Path
        What was written, sidecars included.

    Raises
    ------
    InputError
        If there is no transform to this template, or the template cannot be had. The caller
        may go on: the native maps are there.
    StorageError
        For want of space, quota or permission.
    """
    space, resolution = parse_space(f"{space}:res-{resolution}" if resolution else space)
    transform = transform_of(run, space)
    mask_path = out_dir / map_path(run, suffix="mask", desc="gmvae")
    native = load_image(mask_path)
    template, url = template_grid(space, resolution)
    target = _locate(template, transform, Grid.of(native), np.asanyarray(native.dataobj) > 0)
    if not target.inside.any():
        raise InputError(
            f"{transform.name} puts no voxel of {mask_path.name} into {space}.",
            "The transform does not belong to this image; check the preprocessed dataset.",
        )
    zooms = "x".join(f"{zoom:g}" for zoom in np.linalg.norm(template.affine[:3, :3], axis=0))
    written = []
    for path in maps:
        kind = kind_of(path.name) if path.name.endswith(".nii.gz") else None
        if kind is None or not path.name.startswith(f"{run.stem}_"):
            continue
        if "_desc-samples_" in path.name:  # what interpolation mixes is no draw any more
            continue
        if kind == "vector":
            logger.info("%s is not resampled: orientations would have to be turned.", path.name)
            continue
        new = path.with_name(_name(path.name, run, space, resolution))
        nearest = kind in ("mask", "dseg")
        sidecar = json.loads(_beside(path, ".json").read_text(encoding="utf-8"))
        sources = [f"bids::{path.relative_to(out_dir).as_posix()}", *uris(run, [transform], {})]
        sidecar |= {
            "Description": f"{sidecar['Description']}; resampled to {space}",
            "Sources": sources,
            "SpatialReference": url,
            "Resolution": f"Grid of {space}, res-{resolution}: {zooms} mm",
            "Interpolation": "nearest" if nearest else "linear",
        }
        sidecar.pop("VoxelCounts", None)  # those of the native grid
        image = load_image(path)
        data = np.asanyarray(image.dataobj)
        resampled = target.nearest(data) if nearest else target.linear(data)
        written.append(write_json(_beside(new, ".json"), sidecar))
        written.append(write_image(new, template.image(resampled)))
        if kind == "dseg":
            table = _beside(path, ".tsv").read_bytes()
            written.append(write_bytes(_beside(new, ".tsv"), table))
    return written


@dataclass(frozen=True, eq=False)
class Target:
    """Where the voxels of a target grid lie in a native image.

    Attributes
    ----------
    inside : array of bool, 3-D
        Target voxels whose nearest native voxel is in the mask.
    coordinates : array of shape (3, n_inside)
        Their places in the native image, in voxels.
    mask : array of bool, 3-D
        The native mask.
    """

    inside: NDArray[np.bool_]
    coordinates: NDArray[np.float64]
    mask: NDArray[np.bool_]

    def nearest(self, data: NDArray) -> NDArray:
        """Take the value of the nearest native voxel; 0 outside the mask."""
        volume = np.zeros(self.inside.shape, dtype=data.dtype)
        volume[self.inside] = data[tuple(_nearest(self.coordinates))]
        return volume

    def linear(self, data: NDArray) -> NDArray[np.float32]:
        """Average the neighbouring voxels that hold an estimate, by their nearness.

        The result is NaN where the nearest voxel holds none, and 0 outside the mask.
        """
        valid = self.mask & np.isfinite(data)
        filled = np.where(valid, data, 0).astype(np.float64)
        # Half a voxel beyond the centres of the outermost voxels still belongs to the image.
        total = map_coordinates(filled, self.coordinates, order=1, mode="nearest")
        weight = map_coordinates(
            valid.astype(np.float64), self.coordinates, order=1, mode="nearest"
        )
        # The nearest of eight neighbours has a weight of at least 1/8.
        held = valid[tuple(_nearest(self.coordinates))]
        volume = np.zeros(self.inside.shape, dtype=np.float32)
        volume[self.inside] = np.where(held, total / np.where(held, weight, 1), np.nan)
        return volume


def map_points(transform: Path, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Send points of the template to the native image.

    Parameters
    ----------
    transform : Path
        Composite transform of ITK (``.h5``): affines and displacement fields.
    points : array of shape (n_points, 3)
        World coordinates in the template, RAS, mm.

    Returns
    -------
    array of shape (n_points, 3)
        World coordinates in the native image, RAS, mm.

    Raises
    ------
    InputError
        If the file is no such transform.
    """
    from nitransforms.io.base import TransformIOError
    from nitransforms.io.itk import ITKCompositeH5, ITKLinearTransform

    try:
        parts = ITKCompositeH5.from_filename(transform)
    except (OSError, KeyError, ValueError, TransformIOError) as error:
        raise InputError(
            f"{transform} cannot be read as a composite transform of ITK ({error}).",
            "Give the ..._xfm.h5 that QSIPrep wrote.",
        ) from error
    # ITK applies the last transform of the list first.
    for part in reversed(parts):
        if isinstance(part, ITKLinearTransform):
            matrix = np.asarray(part.to_ras())
            points = points @ matrix[:3, :3].T + matrix[:3, 3]
        else:
            points = points + _displacement(part, points)
    return points


def transform_of(run: Run, space: str) -> Path:
    """Give the transform from a run to a template.

    Raises
    ------
    InputError
        If there is none.
    """
    transform = run.companions.get("to_template")
    if transform is None or not transform.exists():
        raise InputError(
            f"There is no transform from {run.image.name} to {space}; "
            "no maps in that space are written.",
            "QSIPrep writes one (…_mode-image_xfm.h5) when it has an anatomical image.",
        )
    goal = re.search(r"_to-([a-zA-Z0-9+]+)_", transform.name)
    if goal and goal.group(1) != space:
        raise InputError(
            f"The transform {transform.name} leads to {goal.group(1)}, not to {space}; "
            "no maps in that space are written.",
            f"Use --output-spaces {goal.group(1)}.",
        )
    return transform


def _locate(template: Grid, transform: Path, native: Grid, mask: NDArray[np.bool_]) -> Target:
    indices = np.indices(template.shape).reshape(3, -1).T
    points = indices @ template.affine[:3, :3].T + template.affine[:3, 3]
    inverse = np.linalg.inv(native.affine)
    coordinates = (map_points(transform, points) @ inverse[:3, :3].T + inverse[:3, 3]).T
    nearest = _nearest(coordinates)
    within = np.all((nearest >= 0) & (nearest < np.array(mask.shape)[:, None]), axis=0)
    within[within] = mask[tuple(nearest[:, within])]
    return Target(within.reshape(template.shape), coordinates[:, within], mask)


def _nearest(coordinates: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.floor(coordinates + 0.5).astype(np.intp)


def _displacement(field: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate a displacement field linearly; like ITK, there is none outside its voxels."""
    inverse = np.linalg.inv(field.affine)
    coordinates = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
    size = np.array(field.shape[:3])[:, None]
    covered = np.all((coordinates >= -0.5) & (coordinates < size - 0.5), axis=0)
    data = np.asanyarray(field.dataobj)
    components = [
        map_coordinates(data[..., axis], coordinates, order=1, mode="nearest") for axis in range(3)
    ]
    return np.stack(components, axis=-1) * covered[:, None]


def _name(name: str, run: Run, space: str, resolution: str) -> str:
    """Rename a native map: the space in its place, the resolution before label and desc."""
    rest = name.removeprefix(run.stem)
    at = re.search(r"_(?:label|desc)-", rest)
    position = at.start() if at else 0
    return f"{in_space(run.stem, space)}{rest[:position]}_res-{resolution}{rest[position:]}"


def _beside(path: Path, extension: str) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + extension)
