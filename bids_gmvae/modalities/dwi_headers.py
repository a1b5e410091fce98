"""Whether the header of an image says one thing about its voxels."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from bids_gmvae.modalities.base import Issue
from bids_gmvae.voxels import read_qform, read_slope

#: Affines that put a corner this far apart (mm) contradict each other. Real ones differ by up to
#: 0.3 mm, because a qform cannot hold a shear.
APART = 1.0
#: Axes this far apart (cosine) are no longer those of a head that was moved.
TURNED = 0.5


def check_header(path: Path, image: nb.Nifti1Image) -> list[Issue]:
    """Check the orientation and the scale that a header tells.

    Parameters
    ----------
    path : Path
        File of the image, for the messages.
    image : Nifti1Image
        As `open_image` gives it.

    Returns
    -------
    list of Issue
        Warnings; none if all is well.
    """
    return [*_check_orientation(path, image), *check_scale(path, image)]


def check_scale(path: Path, image: nb.Nifti1Image) -> list[Issue]:
    """Warn of a slope that is not a number; parameters as of `check_header`.

    Everybody reads it as none, and some programs write it where they mean none.
    """
    slope = read_slope(image)
    if np.isfinite(slope):
        return []
    text = (
        f"The scale of an image must be a number, but scl_slope of {path} is {slope:g}; its "
        "values are taken as they are stored."
    )
    hint = "Convert the image again, or set scl_slope to 1 if no scale is meant."
    return [Issue("warning", "scale_not_finite", text, hint)]


def _check_orientation(path: Path, image: nb.Nifti1Image) -> list[Issue]:
    codes = [int(image.header[name]) for name in ("qform_code", "sform_code")]
    if not any(codes):
        text = f"An image must say how it is oriented, but {path} has neither qform nor sform."
        hint = "Left and right of the maps cannot be trusted; convert the image again."
        return [Issue("warning", "no_orientation", text, hint)]
    if not all(codes):
        return []
    qform, sform = read_qform(image), image.affine
    if qform is None:
        found = f"that of {path} cannot be read"
    else:
        distance, cosine = _apart(qform, sform, image.shape[:3])
        # Of different codes, the one may be the scanner's space and the other a template's.
        if cosine > TURNED and (distance <= APART or codes[0] != codes[1]):
            return []
        found = f"those of {path} put a corner {distance:.3g} mm apart"
    text = f"qform and sform must put a voxel at one place, but {found}; the sform is used."
    hint = (
        "Other programs may use the qform and exchange left and right; find out which is right, "
        "and give both the same (fslorient -copysform2qform)."
    )
    return [Issue("warning", "affines_differ", text, hint)]


def _apart(
    one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[float, float]:
    """Give the largest distance of a corner, mm, and the smallest cosine of an axis."""
    sizes = (*shape, 1, 1, 1)[:3]
    corners = np.array(list(itertools.product(*((0, size - 1) for size in sizes))))
    moved = nb.affines.apply_affine(one, corners) - nb.affines.apply_affine(other, corners)
    axes = [each[:3, :3] / np.linalg.norm(each[:3, :3], axis=0) for each in (one, other)]
    return float(np.linalg.norm(moved, axis=1).max()), float((axes[0] * axes[1]).sum(axis=0).min())
