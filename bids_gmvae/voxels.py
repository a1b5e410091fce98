"""From images to rows of voxels and back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

#: What a damaged image raises when it is opened or read.
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    nb.filebasedimages.ImageFileError,
    nb.spatialimages.HeaderDataError,
)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: what a written map takes over from its source image.

    Attributes
    ----------
    shape : tuple of int
        Spatial shape.
    affine : array of shape (4, 4)
        Voxel indices to world coordinates, mm.
    qform_code, sform_code : int
        NIfTI codes of the source.
    qform : array of shape (4, 4), optional
        Where the qform of the source puts the voxels, which may differ from `affine`, the sform;
        by default, and if that is damaged, the same.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    qform_code: int
    sform_code: int
    qform: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, image: nb.Nifti1Image) -> Grid:
        """Take the grid of an image."""
        return cls(
            shape=tuple(image.shape[:3]),
            affine=np.asarray(image.affine, dtype=np.float64),
            qform_code=int(image.header["qform_code"]),
            sform_code=int(image.header["sform_code"]),
            qform=read_qform(image),
        )

    def to_dict(self) -> dict[str, Any]:
        """Give all but the shape as plain values."""
        return {
            "affine": self.affine.tolist(),
            "qform_code": self.qform_code,
            "sform_code": self.sform_code,
            "qform": None if self.qform is None else self.qform.tolist(),
        }

    @classmethod
    def from_dict(cls, shape: tuple[int, ...], values: Mapping[str, Any]) -> Grid:
        """Rebuild the grid from its shape and what `to_dict` gave."""
        matrices = {
            key: None if values[key] is None else np.array(values[key], dtype=np.float64)
            for key in ("affine", "qform")
        }
        return cls(shape=shape, **{**values, **matrices})

    def image(self, data: NDArray) -> nb.Nifti1Image:
        """Wrap an array in an image on this grid, keeping qform and sform and their codes."""
        image = nb.Nifti1Image(data, self.affine)
        # A file without any code still has an affine (from pixdim); code 1 keeps it readable.
        qform = self.affine if self.qform is None else self.qform
        image.set_qform(qform, code=self.qform_code)
        image.set_sform(self.affine, code=self.sform_code)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_slope_inter(1, 0)
        return image


def load_image(path: Path) -> nb.Nifti1Image:
    """Open an image lazily."""
    return nb.load(path)  # type: ignore[return-value]


def read_qform(image: nb.Nifti1Image) -> NDArray[np.float64] | None:
    """Give where the qform puts the voxels; None if there is none, or it is damaged.

    Returns
    -------
    array of shape (4, 4) or None
        Voxel indices to world coordinates, mm.
    """
    try:
        qform = image.header.get_qform(coded=True)[0]
    except ValueError:  # a quaternion that is no rotation; the checks of a run tell of it
        return None
    if qform is None or not np.isfinite(qform).all() or not np.linalg.det(qform[:3, :3]):
        return None
    return qform


def read_slope(image: nb.Nifti1Image) -> float:
    """Read ``scl_slope`` as the file has it: nibabel takes what is not finite for 1.

    Parameters
    ----------
    image : Nifti1Image
        From `load_image`.

    Returns
    -------
    float
        1 for formats that have no slope.
    """
    if not isinstance(image, nb.Nifti1Pair):
        return 1.0
    holder = image.file_map.get("header", image.file_map["image"])
    with holder.get_prepare_fileobj("rb") as file:
        return float(type(image.header).from_fileobj(file, check=False)["scl_slope"])


def unmask(values: NDArray, mask: NDArray[np.bool_], fill: float = np.nan) -> NDArray:
    """Put rows of voxels back on the grid.

    Parameters
    ----------
    values : array of shape (n_voxels, ...)
        One row per voxel inside ``mask``, in C order.
    mask : array of bool, 3-D
        The voxels.
    fill : float
        Value outside the mask.

    Returns
    -------
    array of shape (*mask.shape, ...)
        Same dtype as ``values``.
    """
    volume = np.full((*mask.shape, *values.shape[1:]), fill, dtype=values.dtype)
    volume[mask] = values
    return volume


class Neighbourhood:
    """Averages of voxels over their neighbours inside a mask.

    Parameters
    ----------
    mask : array of bool, 3-D
        The voxels.
    width : float
        Standard deviation of the kernel, voxels.
    """

    def __init__(self, mask: NDArray[np.bool_], *, width: float = 2.5) -> None:
        # What lies outside the mask counts nothing: only the box around it is computed.
        occupied = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        self.mask = mask[tuple(slice(found[0], found[-1] + 1) for found in occupied)]
        self.width = width
        self._weight_of_all = self._gather(np.ones(int(mask.sum())))

    def smooth(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average positive values.

        Parameters
        ----------
        values : array of shape (n_voxels,)
            Noisy estimates, one per voxel of the mask in C order.

        Returns
        -------
        array of shape (n_voxels,)
            NaN if no value is positive and finite.
        """
        usable = np.isfinite(values) & (values > 0)
        if not usable.any():
            return np.full(len(values), np.nan)
        typical = np.median(values[usable])
        # Pulsating CSF and motion make single voxels stand out; they must not spread.
        tamed = np.where(usable, np.clip(values, typical / 20, typical * 5), 0.0)
        weight = self._weight_of_all if usable.all() else self._gather(usable.astype(float))
        with np.errstate(invalid="ignore", divide="ignore"):
            average = self._gather(tamed) / weight
        return np.where(np.isfinite(average) & (average > 0), average, typical)

    def _gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum values over neighbours, weighted by their distance."""
        volume = unmask(values, self.mask, fill=0.0)
        return gaussian_filter(volume, self.width, mode="constant")[self.mask]
