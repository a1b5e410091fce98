"""Images volume by volume: read once, turned into rows of voxels, in bounded memory.

NIfTI stores one volume after the other, a fit wants one voxel after the other. The rows go to a
file that is mapped into memory, so that what is held does not grow with the image.
"""

from __future__ import annotations

import errno
import math
import os
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
from bids_gmvae.io.atomic import storage_errors
from bids_gmvae.voxels import DAMAGED

#: Volumes that are turned into columns at once: whole cache lines, hence few passes over a file.
BLOCK = 32
#: Voxels that are moved at once.
CHUNK = 4096
#: Bytes that are written at once.
ZEROS = 1 << 20


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


@dataclass(frozen=True, eq=False)
class Levels:
    """What the values of each volume in a mask are like, (n_volumes,).

    Attributes
    ----------
    means : array
        Of the finite values; NaN where there is none.
    constant : array of bool
        Whether all finite values are equal, and there are several.
    first : array
        The value of the first voxel.
    """

    means: NDArray[np.float64]
    constant: NDArray[np.bool_]
    first: NDArray[np.float64]

    @classmethod
    def empty(cls, n_volumes: int) -> Levels:
        """Make room for volumes that `look` is to see."""
        return cls(np.empty(n_volumes), np.empty(n_volumes, dtype=bool), np.empty(n_volumes))

    def look(self, number: int, values: NDArray) -> None:
        """Note the values of a volume, (n_voxels,)."""
        finite = np.isfinite(values)
        known = values if finite.all() else values[finite]
        self.first[number] = values[0]
        self.means[number] = known.mean(dtype=np.float64) if len(known) else np.nan
        several = len(known) > 0 and len(values) > 1
        self.constant[number] = several and known.min() == known.max()

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which volumes hold signal; some negative values, as interpolation makes, are sound."""
        return (self.means > 0) & ~self.constant

    @property
    def negative(self) -> NDArray[np.bool_]:
        """Which volumes hold less than no signal."""
        return (self.means <= 0) & ~self.constant

    def faults(self, what: str = "Each volume") -> Iterator[tuple[str, str, str]]:
        """Say what is wrong with volumes that hold no signal.

        Yields
        ------
        tuple of str
            A short identifier, a sentence that starts with ``what``, and what to do.
        """
        hint = "Remove them from the image and from the gradient table."
        absent = np.flatnonzero(np.isnan(self.means))
        if len(absent):
            text = (
                f"{what} must hold finite values, but {self._name(absent)} hold none: the first "
                f"voxel of volume {absent[0]} is {self.first[absent[0]]:g}."
            )
            yield "volume_not_finite", text, hint
        flat = np.flatnonzero(self.constant)
        if len(flat):
            text = (
                f"{what} must vary over the mask, but {self._name(flat)} do not: all voxels of "
                f"volume {flat[0]} are {self.means[flat[0]]:g}."
            )
            yield "volume_constant", text, hint
        below = np.flatnonzero(self.negative)
        if len(below):
            text = (
                f"{what} must hold positive signals, but {self._name(below)} do not: the mean of "
                f"volume {below[0]} over the mask is {self.means[below[0]]:.4g}."
            )
            hint = "Give magnitudes as the scanner wrote them, or remove these volumes."
            yield "volume_negative", text, hint

    def _name(self, volumes: NDArray[np.intp], limit: int = 10) -> str:
        if len(volumes) == len(self.means):
            return f"all {len(volumes)} volumes"
        more = f" and {len(volumes) - limit} more" if len(volumes) > limit else ""
        plural = "volume" if len(volumes) == 1 else "volumes"
        return f"{plural} {', '.join(map(str, volumes[:limit]))}{more} (counted from 0)"


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
        If the image is damaged, or volumes of it hold no signal.
    StorageError
        If there is no room for the signals.
    """
    index = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
    _allocate(file, len(index) * len(is_b0) * np.float32().itemsize)
    signals = np.memmap(file, np.float32, mode="r+", shape=(len(index), len(is_b0)))
    block = np.empty((BLOCK, len(index)), np.float32)
    b0 = np.zeros(mask.size)
    total, b0_total = np.zeros((2, len(index)))
    levels = Levels.empty(len(is_b0))
    for number, volume in enumerate(stored_volumes(image, len(is_b0))):
        position = number % BLOCK
        values = block[position] = scaled(volume.take(index), image)
        levels.look(number, values)
        np.add(total, values, out=total, where=np.isfinite(values))
        if is_b0[number]:
            np.add(b0_total, values, out=b0_total, where=np.isfinite(values))
            b0 += scaled(volume, image)
        if position == BLOCK - 1 or number == len(is_b0) - 1:
            for first in range(0, len(index), CHUNK):  # what is turned stays in the cache
                rows = slice(first, first + CHUNK)
                signals[rows, number - position : number + 1] = block[: position + 1, rows].T
    reference = (b0 / is_b0.sum()).astype(np.float32).reshape(mask.shape, order="F")
    supported = (b0_total > 0) & (total > 0)
    _require_signal(image, levels, signals, supported)
    return Rows(signals, np.ascontiguousarray(reference), supported)


def _allocate(file: Path, size: int) -> None:
    """Take all the room of a file, bytes: a full disk kills who writes to what is mapped."""
    with storage_errors(file), file.open("wb") as new:
        try:
            os.posix_fallocate(new.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            for first in range(0, size, ZEROS):  # some file systems know no other way
                new.write(bytes(min(ZEROS, size - first)))


def _require_signal(
    image: nb.Nifti1Image, levels: Levels, signals: NDArray, supported: NDArray[np.bool_]
) -> None:
    """Raise `InputError` if volumes hold no signal, unless it is the mask that lies beside it."""
    suspects = np.flatnonzero(~levels.usable)
    if supported.any():
        for number in suspects:  # what is not mapped does not make them bad
            levels.look(int(number), signals[supported, number])
    elif len(suspects) == len(levels.means) and not levels.negative.any():
        _require_values(image)
        return
    faults = list(levels.faults(f"Each volume of {image.get_filename()}"))
    if faults:
        raise InputError(" ".join(text for _, text, _ in faults), faults[0][2])


def _require_values(image: nb.Nifti1Image) -> None:
    """Raise `InputError` if no voxel of an image has signal."""
    highest, first = -np.inf, np.nan
    for number, volume in enumerate(stored_volumes(image, image.shape[3])):
        values = scaled(volume, image)
        first = values[0] if number == 0 else first
        highest = max(highest, values.max(initial=-np.inf, where=np.isfinite(values)))
    if not highest > 0:
        raise _without_signal(str(image.get_filename()), highest, first)


def _without_signal(what: str, highest: float, first: float) -> InputError:
    found = f"their largest is {highest:g}" if np.isfinite(highest) else f"the first is {first:g}"
    return InputError(
        f"{what} must hold positive signals, but none of its values is one; {found}.",
        "The image may be damaged or have a wrong scale; convert or preprocess it again.",
    )


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

    Raises
    ------
    InputError
        If it is damaged, or no voxel of these volumes has signal.
    """
    shape = image.shape[:3]
    total, count = np.zeros((2, math.prod(shape)))
    first = np.nan
    n_volumes = int(np.flatnonzero(chosen)[-1]) + 1
    for number, volume in enumerate(stored_volumes(image, n_volumes)):
        if chosen[number]:
            values = scaled(volume, image)
            finite = np.isfinite(values)
            first = first if count.any() else values[0]
            total += np.where(finite, values, 0)
            count += finite
    mean = total / np.maximum(count, 1)
    if not (mean > 0).any():
        highest = mean[count > 0].max(initial=-np.inf)
        raise _without_signal(f"The mean b0 image of {image.get_filename()}", highest, first)
    return mean.reshape(shape, order="F")


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
