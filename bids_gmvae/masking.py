"""Which voxels are mapped: a mask from a file or from the image, less voxels without signal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from bids_gmvae.exceptions import InputError
from bids_gmvae.voxels import DAMAGED, Grid, load_image, read_slope

#: Largest difference of two affines that still count as the same grid, mm.
AFFINE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Mask:
    """Where signal is expected, and who says so.

    Attributes
    ----------
    mask : array of bool, 3-D
        The voxels; at least one.
    source : str
        ``"given"`` (by the user), ``"derivative"`` or ``"median_otsu"``.
    path : Path or None
        File of the mask, if any.
    """

    mask: NDArray[np.bool_]
    source: str
    path: Path | None = None

    def without(self, removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Take away voxels that have no signal.

        Parameters
        ----------
        removed : array of bool, 3-D
            Those voxels.

        Returns
        -------
        array of bool, 3-D
            At least one voxel.

        Raises
        ------
        InputError
            If none is left.
        """
        kept = self.mask & ~removed
        if not kept.any():
            raise InputError(
                f"The mask ({self.path or self.source}) must cover voxels with signal, but none "
                f"of its {self.mask.sum()} voxels has any.",
                "Give another one with --mask PATH.",
            )
        return kept


def find_mask(
    mean_b0: Callable[[], NDArray],
    grid: Grid,
    *,
    derivative: Path | None = None,
    given: Path | None = None,
) -> Mask:
    """Decide which voxels are looked at.

    The mask given by the user comes first, then the one that preprocessing left, then one
    computed from the mean b0 image.

    Parameters
    ----------
    mean_b0 : callable
        Gives the mean b0 image, 3-D; called only if it is needed.
    grid : Grid
        Grid of the image.
    derivative : Path or None
        Mask written by preprocessing.
    given : Path or None
        Mask that the user asked for.

    Raises
    ------
    InputError
        If the mask lies on another grid or is empty.
    """
    path = given or derivative
    if path is not None:
        found = Mask(read_mask(path, grid), "given" if given else "derivative", path)
    else:
        found = Mask(_median_otsu(mean_b0()), "median_otsu")
    if not found.mask.any():
        raise InputError(
            f"The mask ({path or found.source}) must contain voxels, but is empty.",
            "Give another one with --mask PATH.",
        )
    return found


def check_grid(path: Path, grid: Grid, *, what: str = "mask", option: str = "--mask") -> None:
    """Raise `InputError` if an image does not lie on a grid; reads the header only.

    Parameters
    ----------
    path : Path
        A 3-D image.
    grid : Grid
        Where it should lie.
    what, option : str
        For the messages.
    """
    _open_on_grid(path, grid, what, option)


def read_mask(path: Path, grid: Grid) -> NDArray[np.bool_]:
    """Read a mask that must lie on a grid.

    Parameters
    ----------
    path : Path
        A 3-D image; values above 0.5 are inside.
    grid : Grid
        Where it should lie.

    Returns
    -------
    array of bool, 3-D
        The mask.

    Raises
    ------
    InputError
        If the file cannot be read or lies on another grid.
    """
    return read_on_grid(path, grid) > 0.5


def read_on_grid(path: Path, grid: Grid, *, what: str = "mask", option: str = "--mask") -> NDArray:
    """Read a 3-D image that must lie on a grid; ``what`` and ``option`` are for the messages.

    Raises
    ------
    InputError
        If the file cannot be read or lies on another grid.
    """
    image = _open_on_grid(path, grid, what, option)
    try:
        return np.asanyarray(image.dataobj).reshape(grid.shape)
    except DAMAGED as error:
        raise InputError(f"The {what} {path} cannot be read: {error}.") from error


def _open_on_grid(
    path: Path, grid: Grid, what: str = "mask", option: str = "--mask"
) -> nb.Nifti1Image:
    try:
        image = load_image(path)
    except FileNotFoundError as error:
        raise InputError(
            f"The {what} {path} does not exist, or its content is not here.",
            f"If the dataset is managed by DataLad, run: datalad get {path}",
        ) from error
    except DAMAGED as error:
        raise InputError(f"The {what} {path} must be a NIfTI image, but: {error}.") from error
    if image.get_data_dtype().kind not in "biuf":
        raise InputError(
            f"The {what} {path} must hold real numbers, but its data type is "
            f"{image.get_data_dtype()}.",
            f"Give another one with {option} PATH.",
        )
    slope = read_slope(image)
    if np.isinf(slope):
        raise InputError(
            f"The {what} {path} must have a scale that is a number, but its scl_slope is "
            f"{slope:g}.",
            f"Give another one with {option} PATH.",
        )
    shape = image.shape[:3] if image.shape[3:] == (1,) else image.shape
    if tuple(shape) != tuple(grid.shape):
        raise InputError(
            f"The {what} must have the grid of the image, {grid.shape} voxels, but {path} has "
            f"{tuple(shape)}.",
            f"Resample it to the image, or use {option} auto.",
        )
    difference = float(np.abs(image.affine - grid.affine).max())
    if not difference <= AFFINE_TOLERANCE:  # nor is not-a-number
        raise InputError(
            f"The {what} must have the affine of the image, but that of {path} differs by up to "
            f"{difference:.3g} (mm).",
            f"Resample it to the image, or use {option} auto.",
        )
    return image


def _median_otsu(b0: NDArray[np.float64]) -> NDArray[np.bool_]:
    from dipy.segment.mask import median_otsu
    from scipy.ndimage import binary_fill_holes

    _, mask = median_otsu(b0, median_radius=2, numpass=1)
    return np.asarray(binary_fill_holes(mask), dtype=bool)
