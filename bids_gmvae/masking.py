"""Which voxels are mapped: a mask from a file or from the image, less voxels without signal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from bids_gmvae.exceptions import InputError
from bids_gmvae.voxels import DAMAGED, Grid, load_image

#: Largest difference of two affines that still count as the same grid, mm.
AFFINE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Mask:
    """The voxels to be mapped, and where they come from.

    Attributes
    ----------
    mask : array of bool, 3-D
        Voxels to be mapped.
    removed : array of bool, 3-D
        Voxels of the original mask that have no signal.
    source : str
        ``"given"`` (by the user), ``"derivative"`` or ``"median_otsu"``.
    path : Path or None
        File of the original mask, if any.
    counts : dict of str to int
        Number of voxels ``given`` (in the original mask), ``removed`` and ``kept``.
    """

    mask: NDArray[np.bool_]
    removed: NDArray[np.bool_]
    source: str
    path: Path | None
    counts: dict[str, int]


def compute_mask(
    data: NDArray,
    is_b0: NDArray[np.bool_],
    grid: Grid,
    *,
    derivative: Path | None = None,
    given: Path | None = None,
) -> Mask:
    """Decide which voxels are mapped.

    The mask given by the user comes first, then the one that preprocessing left, then one
    computed from the mean b0 image. Voxels without signal are removed; that is judged on the
    mean b0 image and the mean over volumes, because single zeros at high b-values are data.

    Parameters
    ----------
    data : array, 4-D
        The volumes.
    is_b0 : array of bool, shape (n_volumes,)
        Which of them are b0 images.
    grid : Grid
        Grid of ``data``.
    derivative : Path or None
        Mask written by preprocessing.
    given : Path or None
        Mask that the user asked for.

    Returns
    -------
    Mask
        At least one voxel.

    Raises
    ------
    InputError
        If the mask lies on another grid or is empty, or there is no b0 image.
    """
    if not is_b0.any():
        raise InputError("A mask needs a b0 image to judge the signal, but there is none.")
    b0 = _mean(data[..., is_b0])
    path = given or derivative
    if path is not None:
        source = "given" if given else "derivative"
        original = read_mask(path, grid)
    else:
        source = "median_otsu"
        original = _median_otsu(b0)
    if not original.any():
        raise InputError(
            f"The mask ({path or source}) must contain voxels, but is empty.",
            "Give another one with --mask PATH.",
        )
    mask = original & signal_support(b0, data)
    if not mask.any():
        raise InputError(
            f"The mask ({path or source}) must cover voxels with signal, but none of its "
            f"{original.sum()} voxels has any.",
            "Give another one with --mask PATH.",
        )
    removed = original & ~mask
    counts = {"given": original, "removed": removed, "kept": mask}
    return Mask(mask, removed, source, path, {key: int(x.sum()) for key, x in counts.items()})


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


def signal_support(b0: NDArray, data: NDArray) -> NDArray[np.bool_]:
    """Tell which voxels have signal.

    Parameters
    ----------
    b0 : array, 3-D
        Mean b0 image.
    data : array, 4-D
        All volumes.

    Returns
    -------
    array of bool, 3-D
        Where both means are positive.
    """
    return (b0 > 0) & (_mean(data) > 0)


def _mean(data: NDArray) -> NDArray[np.float64]:
    """Average the finite values over volumes; 0 where there is none.

    What is not finite is no lack of signal: the check of the values says what it is.
    """
    finite = np.isfinite(data)
    total = data.sum(axis=-1, dtype=np.float64, where=finite)
    return total / np.maximum(finite.sum(axis=-1), 1)


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
    shape = image.shape[:3] if image.shape[3:] == (1,) else image.shape
    if tuple(shape) != tuple(grid.shape):
        raise InputError(
            f"The {what} must have the grid of the image, {grid.shape} voxels, but {path} has "
            f"{tuple(shape)}.",
            f"Resample it to the image, or use {option} auto.",
        )
    difference = float(np.abs(image.affine - grid.affine).max())
    if difference > AFFINE_TOLERANCE:
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
