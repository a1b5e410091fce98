"""Images on disk: opening them, with errors that say what is wrong."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import nibabel as nb
import numpy as np

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.inheritance import require_content
from bids_gmvae.voxels import DAMAGED, load_image, read_slope


def open_image(path: Path) -> nb.Nifti1Image:
    """Open an image lazily, after checking that it is there and whole.

    Parameters
    ----------
    path : Path
        NIfTI file.

    Returns
    -------
    Nifti1Image
        Its data are not read yet.

    Raises
    ------
    InputError
        If the file is missing, cut off or no NIfTI image of real numbers that lie somewhere, or
        if they are multiplied by infinity.
    """
    require_content(path)
    try:
        image = load_image(path)
    except DAMAGED as error:
        raise InputError(
            f"{path} must be a NIfTI image, but its header cannot be read: {error}.",
            "The file may be damaged; copy or convert it again.",
        ) from error
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(
            f"{path} must hold real numbers, but its data type is {image.get_data_dtype()}.",
            "Give the magnitude image.",
        )
    if min(image.shape, default=0) < 1:
        raise InputError(
            f"{path} must have voxels along each axis, but has the shape {image.shape}.",
            "The file may be damaged; copy or convert it again.",
        )
    volume = np.linalg.det(image.affine[:3, :3])
    if not np.isfinite(image.affine).all() or not abs(volume) > 0:
        raise InputError(
            f"{path} must say where its voxels lie, but they have a volume of {volume:g} mm^3.",
            "Its affine is damaged; convert the image again.",
        )
    slope = read_slope(image)
    if np.isinf(slope):
        raise InputError(
            f"{path} must have a scale that is a number, but its scl_slope is {slope:g}.",
            "Its header is damaged; convert the image again.",
        )
    offset = int(image.dataobj.offset)  # type: ignore[attr-defined]
    expected = offset + image.get_data_dtype().itemsize * math.prod(image.shape)
    size = _content_size(path, expected)
    if size < expected:
        raise InputError(
            f"{path} must hold {expected} bytes (header and {image.shape} voxels), but the "
            f"file ends after {size}.",
            "The file is cut off; copy or convert it again.",
        )
    return image


def _content_size(path: Path, expected: int) -> int:
    """Give the size of the content, in bytes, decompressing it only if in doubt."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with path.open("rb") as file:
        file.seek(-4, 2)
        # The last four bytes of gzip hold the size modulo 2^32; they are wrong if the file is
        # cut off, but also if it was written in several members.
        size = int.from_bytes(file.read(4), "little")
    if size == expected % 2**32:
        return expected
    count = 0
    try:
        with gzip.open(path) as file:
            while chunk := file.read1(1 << 22):  # read() would lose what precedes the cut
                count += len(chunk)
    except (EOFError, OSError, zlib.error):
        return count
    return count
