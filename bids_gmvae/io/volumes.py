"""Images volume by volume: read once, turned into rows of voxels, in bounded memory.

NIfTI stores one volume after the other, a fit wants one voxel after the other. The rows go to a
file that is mapped into memory, so that what is held does not grow with the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from bids_gmvae.exceptions import InputError
from bids_gmvae.voxels import DAMAGED

#: Volumes that are turned into columns at once: whole cache lines, hence few passes over a file.
BLOCK = 32
#: Voxels that are moved at once.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Rows:
    """What one pass over an image gives.

    Attributes
    ----------
    signals : memory map of float32, shape (n_voxels, n_volumes)
        Scaled values, one row per voxel of the mask in C order.
    reference : array of float32, 3-D
        Mean b0 image.
    supported : array of bool, shape (n_voxels,)
        Where both the b0 images and all volumes have a positive mean. Single zeros at high
        b-values are data, and what is not finite is no lack of signal.
    """

    signals: np.memmap
    reference: NDArray[np.float32]
    supported: NDArray[np.bool_]


def read_rows(
    image: nb.Nifti1Image, mask: NDArray[np.bool_], is_b0: NDArray[np.bool_], file: Path
) -> Rows:
    """Read an image once, and keep the voxels of a mask.

    Parameters
    ----------
    image : Nifti1Image
        4-D, as `open_image` gives it.
    mask : array of bool, 3-D
        The voxels.
    is_b0 : array of bool, shape (n_volumes,)
        Which volumes are b0 images; at least one.
    file : Path
        Where the signals are put.

    Raises
    ------
    InputError
        If the image is damaged.
    """
    index = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
    signals = np.memmap(file, np.float32, mode="w+", shape=(len(index), len(is_b0)))
    block = np.empty((BLOCK, len(index)), np.float32)
    b0 = np.zeros(mask.size)
    total, b0_total = np.zeros((2, len(index)))
    for number, volume in enumerate(stored_volumes(image, len(is_b0))):
        position = number % BLOCK
        values = block[position] = scaled(volume.take(index), image)
        np.add(total, values, out=total, where=np.isfinite(values))
        if is_b0[number]:
            np.add(b0_total, values, out=b0_total, where=np.isfinite(values))
            b0 += scaled(volume, image)
        if position == BLOCK - 1 or number == len(is_b0) - 1:
            for first in range(0, len(index), CHUNK):  # what is turned stays in the cache
                rows = slice(first, first + CHUNK)
                signals[rows, number - position : number + 1] = block[: position + 1, rows].T
    reference = (b0 / is_b0.sum()).astype(np.float32).reshape(mask.shape, order="F")
    return Rows(signals, np.ascontiguousarray(reference), (b0_total > 0) & (total > 0))


def keep(signals: np.memmap, chosen: NDArray[np.bool_], *, axis: int) -> np.memmap:
    """Leave out rows (``axis`` 0) or columns (1) of mapped signals, within their file.

    Parameters
    ----------
    signals : memory map, shape (n_voxels, n_volumes)
        Not to be used any more afterwards.
    chosen : array of bool
        Which voxels or volumes stay.
    """
    if chosen.all():
        return signals
    kept = np.flatnonzero(chosen)
    shape = (len(kept), signals.shape[1]) if axis == 0 else (len(signals), len(kept))
    flat, width = signals.reshape(-1), shape[1]
    for first in range(0, shape[0], CHUNK):
        rows = slice(first, first + CHUNK)
        part = signals[kept[rows]] if axis == 0 else signals[rows][:, kept]
        # What is written lies before what is still to be read.
        flat[first * width : first * width + part.size] = part.reshape(-1)
    signals.flush()
    file = Path(str(signals.filename))
    with file.open("r+b") as stored:
        stored.truncate(shape[0] * width * signals.itemsize)
    return map_rows(file, width)


def map_rows(file: Path, n_volumes: int) -> np.memmap:
    """Map a file of signals; writing to them leaves the file as it is."""
    return np.memmap(file, np.float32, mode="c").reshape(-1, n_volumes)  # type: ignore[return-value]


def mean_volume(image: nb.Nifti1Image, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average the finite values of some volumes; 0 where there is none.

    Parameters
    ----------
    image : Nifti1Image
        4-D; read up to the last volume that is needed.
    chosen : array of bool, shape (n_volumes,)
        At least one.

    Returns
    -------
    array of float64, 3-D
    """
    shape = image.shape[:3]
    total, count = np.zeros((2, math.prod(shape)))
    n_volumes = int(np.flatnonzero(chosen)[-1]) + 1
    for number, volume in enumerate(stored_volumes(image, n_volumes)):
        if chosen[number]:
            values = scaled(volume, image)
            finite = np.isfinite(values)
            total += np.where(finite, values, 0)
            count += finite
    return (total / np.maximum(count, 1)).reshape(shape, order="F")


def stored_volumes(image: nb.Nifti1Image, n_volumes: int) -> Iterator[NDArray]:
    """Yield the first volumes as they are stored, flat in Fortran order.

    The next one is decompressed by a thread while one is in use.

    Raises
    ------
    InputError
        If the image is damaged.
    """
    proxy: ArrayProxy = image.dataobj  # type: ignore[assignment]
    per_volume = math.prod(proxy.shape[:3])
    with nb.openers.ImageOpener(proxy.file_like) as file, ThreadPoolExecutor(1) as pool:

        def read(number: int) -> NDArray:
            volume = np.frombuffer(file.read(per_volume * proxy.dtype.itemsize), proxy.dtype)
            if len(volume) < per_volume:
                raise EOFError("the file ends too early")
            if number == proxy.shape[3] - 1:
                while file.read(1 << 20):  # gzip compares its checksum at the very end
                    pass
            return volume

        file.seek(proxy.offset)
        following = pool.submit(read, 0)
        for number in range(1, n_volumes + 1):
            try:
                volume = following.result()
            except DAMAGED as error:
                raise InputError(
                    f"The voxels of {proxy.file_like} must be readable, but are not: {error}.",
                    "The file may be damaged; copy or convert it again.",
                ) from error
            if number < n_volumes:
                following = pool.submit(read, number)
            yield volume


def scaled(stored: NDArray, image: nb.Nifti1Image) -> NDArray[np.float32]:
    """Turn stored values of an image into its values."""
    proxy: ArrayProxy = image.dataobj  # type: ignore[assignment]
    return apply_read_scaling(stored, proxy.slope, proxy.inter).astype(np.float32, copy=False)
